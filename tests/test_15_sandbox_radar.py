"""The sandbox's radars: geometry that closes, speckle with the right moments, covariances as the scatterers demand."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer
from scipy.ndimage import map_coordinates

from catalog import sandbox
from catalog.sandbox import REGIONS, Product, gaofen3, orbit, radar, sentinel1
from catalog.sandbox.landscape import draw
from catalog.sandbox.orbit import Footing, Ground, ecef
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import complex_speckle, covariance_of
from catalog.sandbox.spectra import CODE, SURFACES

C = 299_792_458.0
POLARISATIONS = ("HH", "HV", "VH", "VV")


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> sandbox.Summary:
    """The western region at 128 pixels."""
    return sandbox.write(tmp_path_factory.mktemp("sandbox") / "earth", size_px=128, regions=REGIONS[:1])


@pytest.fixture(scope="module")
def looks() -> tuple[Look, Look]:
    """How Sentinel-1 and Gaofen-3 see the same region, without products."""
    land = draw(REGIONS[0], 1280.0, 7)
    relief, echo = radar.ground(land), radar.covariance(land, "summer")
    return sentinel1.look_at(land, relief, echo)[0], gaofen3.look_at(land, relief, echo)[0]


def folder_of(earth: sandbox.Summary, sensor: str) -> tuple[Product, Path]:
    found = next(p for p in earth.products if p.sensor == sensor)
    return found, Path(earth.root) / "products" / found.folder


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


def numbers(node: ElementTree.Element, tag: str) -> np.ndarray:
    return np.array([float(v) for v in (node.findtext(tag) or "").split()])


def seconds(text: str) -> float:
    return float((np.datetime64(text) - np.datetime64("2025-08-09")) / np.timedelta64(1, "us")) / 1e6


def on_map(look: Look, truth: np.ndarray, error: tuple[float, float]) -> np.ndarray:
    """Truth on the region's 10 m grid (layer, row, col) as the image shows it, NaN beyond the region."""
    line, sample = np.mgrid[: look.frame.lines, : look.frame.samples].astype(float)
    x, y = look.footing.locate(line - error[0], sample - error[1])
    region = REGIONS[0]
    col, row = (x - region.west_m) / 10 - 0.5, (region.south_m + 1280 - y) / 10 - 0.5
    wide = np.where((col > 0) & (col < 127) & (row > 0) & (row < 127), 1.0, np.nan)
    where = [np.nan_to_num(row), np.nan_to_num(col)]
    return np.stack([map_coordinates(t.astype(float), where, order=1, mode="nearest") for t in truth]) * wide


def calibrated(folder: Path, polarisation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DN^2 / A^2, noise / A^2 and where there is data, from the tables as they stand in the product."""
    dn = read(next(folder.glob(f"measurement/*-{polarisation}-*.tiff")))[0].astype(float)
    lines, samples = dn.shape
    tables = ElementTree.parse(
        next(folder.glob(f"annotation/calibration/calibration-*-{polarisation}-*.xml"))
    ).getroot()
    noise = ElementTree.parse(next(folder.glob(f"annotation/calibration/noise-*-{polarisation}-*.xml"))).getroot()
    vector = tables.findall(".//calibrationVector")[1]
    a2 = np.interp(np.arange(samples), numbers(vector, "pixel"), numbers(vector, "sigmaNought")) ** 2
    ranges = noise.findall(".//noiseRangeVector")[1]
    across = np.interp(np.arange(samples), numbers(ranges, "pixel"), numbers(ranges, "noiseRangeLut"))
    along = np.ones((lines, samples))
    for block in noise.findall(".//noiseAzimuthVector"):
        first, last = (int(block.findtext(t) or 0) for t in ("firstRangeSample", "lastRangeSample"))
        factor = np.interp(np.arange(lines), numbers(block, "line"), numbers(block, "noiseAzimuthLut"))
        along[:, first : last + 1] = factor[:, None]
    return dn**2 / a2, along * across / a2, dn > 0


def test_an_orbit_flies_as_physics_says() -> None:
    """Its velocity is the derivative of its position; it passes abeam at time 0 under the incidence asked for."""
    path = orbit.orbit_over(
        11.9, 46.9, 500.0, altitude_m=7e5, inclination_deg=98.2, incidence_deg=39.0, descending=True
    )
    before, after = path.state(-0.5)[0], path.state(0.5)[0]
    assert np.allclose(after - before, path.state(0.0)[1], atol=0.01)
    place = ecef(*(np.float64(v) for v in (11.9, 46.9, 500.0)))
    position, velocity = path.state(0.0)
    sight = position - place
    up = orbit.vertical(np.float64(11.9), np.float64(46.9))
    assert abs(sight @ velocity) / np.linalg.norm(velocity) < 0.01
    assert np.degrees(np.arccos(sight @ up / np.linalg.norm(sight))) == pytest.approx(39.0, abs=1e-6)
    assert np.cross(velocity, -sight) @ position < 0, "the target is on the right"
    assert velocity[2] < 0
    assert abs(path.abeam(place)[0]) < 1e-9


@pytest.mark.parametrize("number", [0, 1])
def test_what_an_image_shows_projects_back_onto_it(looks: tuple[Look, Look], number: int) -> None:
    """Image to ground to image closes to a hundredth of a pixel, by the exact range-Doppler equations."""
    look = looks[number]
    line, sample = np.mgrid[4 : look.frame.lines - 4 : 9, 4 : look.frame.samples - 4 : 9].astype(float)
    footing: Footing = look.footing
    x, y = footing.locate(line, sample, 1e-5)
    relief: Ground = footing.ground
    lon, lat, z = (
        relief.at(x, y, a) for a in (relief.longitude_deg, relief.latitude_deg, relief.height_m.astype(float))
    )
    seen = look.frame.project(ecef(lon, lat, z))
    miss = np.hypot(seen[0] - line, seen[1] - sample)
    assert np.quantile(miss, 0.99) < 0.01


def test_the_annotated_grid_satisfies_range_and_doppler(earth: sandbox.Summary) -> None:
    """From the state vectors in the XML alone: zero Doppler to 2 cm, slant range to 2 cm, range polynomials to 2 cm."""
    _, folder = folder_of(earth, "sentinel-1")
    top = ElementTree.parse(next(folder.glob("annotation/s1a-iw-grd-vv-*.xml"))).getroot()
    orbits = top.findall(".//orbit")
    t = np.array([seconds(o.findtext("time") or "") for o in orbits])
    state = np.array(
        [[float(o.findtext(f"{k}/{a}") or 0) for k in ("position", "velocity") for a in "xyz"] for o in orbits]
    )
    middle = t.mean()
    laws = [np.polynomial.Polynomial.fit(t - middle, state[:, k], 8) for k in range(6)]
    to_slant = numbers(top.find(".//coordinateConversion") or top, "grsrCoefficients")
    conversion = top.findall(".//coordinateConversionList/coordinateConversion")[1]
    to_slant, to_ground = (numbers(conversion, k) for k in ("grsrCoefficients", "srgrCoefficients"))
    near = float(conversion.findtext("sr0") or 0)
    first = seconds(top.findtext(".//productFirstLineUtcTime") or "")
    interval = float(top.findtext(".//azimuthTimeInterval") or 0)
    points = top.findall(".//geolocationGridPoint")
    assert len(points) >= 6 * 21
    for p in points:
        when, slant = seconds(p.findtext("azimuthTime") or ""), float(p.findtext("slantRangeTime") or 0) * C / 2
        place = ecef(*(np.float64(p.findtext(k) or 0) for k in ("longitude", "latitude", "height")))
        position, velocity = np.array([law(when - middle) for law in laws]).reshape(2, 3)
        sight = place - position
        assert abs(sight @ velocity) / np.linalg.norm(velocity) < 0.02
        assert np.linalg.norm(sight) == pytest.approx(slant, abs=0.02)
        ground = float(p.findtext("pixel") or 0) * 10.0
        assert np.polynomial.polynomial.polyval(ground, to_slant) == pytest.approx(slant, abs=0.02)
        assert np.polynomial.polynomial.polyval(slant - near, to_ground) == pytest.approx(ground, abs=0.02)
        assert when == pytest.approx(first + float(p.findtext("line") or 0) * interval, abs=2e-6)


def test_sentinel1_power_is_the_truth_and_its_speckle_gamma(earth: sandbox.Summary, looks: tuple[Look, Look]) -> None:
    """(DN^2 - noise) / A^2 over the truth has mean 1 within the central limit, and its ENL is 4.4."""
    _, folder = folder_of(earth, "sentinel-1")
    truth = read(Path(earth.root) / earth.truth["west"]["sigma0"])
    want = on_map(looks[0], truth, (0.6, -0.4))
    for i, polarisation in enumerate(("vv", "vh")):
        power, nesz, valid = calibrated(folder, polarisation)
        assert not valid[:, -6:].any()
        use = valid & np.isfinite(want[i])
        speckle = power[use] / (want[i] + nesz)[use]
        count = use.sum()
        assert speckle.mean() == pytest.approx(1.0, abs=4 / np.sqrt(4.4 * count))
        assert 1.0 / speckle.var() == pytest.approx(4.4, rel=0.06)
        clean = (power - nesz)[use]
        assert clean.mean() == pytest.approx(want[i][use].mean(), rel=0.03)


def test_sentinel1_files_are_where_the_format_has_them(earth: sandbox.Summary) -> None:
    """Manifest, annotation, calibration and noise for both polarisations; no affine, but ground control points."""
    _, folder = folder_of(earth, "sentinel-1")
    hrefs = [e.get("href", "") for e in ElementTree.parse(folder / "manifest.safe").getroot().iter("fileLocation")]
    assert len(hrefs) == 8
    assert all((folder / h).is_file() for h in hrefs)
    with rasterio.open(next(folder.glob("measurement/*-vv-*.tiff"))) as source:
        assert source.dtypes == ("uint16",)
        assert source.transform.is_identity
        gcps, crs = source.gcps
        assert crs.to_epsg() == 4326
        assert len(gcps) >= 6 * 21


def complex_channels(folder: Path) -> np.ndarray:
    """Calibrated complex amplitudes (polarisation, line, sample), by the formula of the format."""
    meta = ElementTree.parse(next(folder.glob("*.meta.xml"))).getroot()
    layers = []
    for p in POLARISATIONS:
        i, q = read(next(folder.glob(f"*_{p}_*.tiff"))).astype(float)
        scale = float(meta.findtext(f"imageinfo/QualifyValue/{p}") or 0) / 32767
        constant_db = float(meta.findtext(f"processinfo/CalibrationConst/{p}") or 0)
        layers.append((i + 1j * q) * scale * 10 ** (-constant_db / 20))
    return np.stack(layers)


def test_gaofen3_covariance_is_the_truth(earth: sandbox.Summary, looks: tuple[Look, Look]) -> None:
    """Powers, the HH-VV product and the HV-VH coherence agree with the truth plus the stated noise."""
    _, folder = folder_of(earth, "gaofen-3")
    z = complex_channels(folder)
    truth = read(Path(earth.root) / earth.truth["west"]["covariance"])
    error = (-3.0 / 8.0, 5.0 * np.sin(np.radians(35.0)) * 2 * 33.333333e6 / C)
    want = on_map(looks[1], truth, error)
    use = np.isfinite(want[0]) & (z != 0).all(0)
    noise, count = 10 ** (-31 / 10), use.sum()
    for channel, term in (("HH", 0), ("HV", 1), ("VH", 1), ("VV", 2)):
        ratio = np.abs(z[POLARISATIONS.index(channel)][use]) ** 2 / (want[term][use] + noise)
        assert ratio.mean() == pytest.approx(1.0, abs=4 / np.sqrt(count) + 0.003)
        assert ratio.var() == pytest.approx(1.0, abs=0.1), "single look: the variance is the mean squared"
    weight = np.sqrt(want[0] * want[2])[use]
    product = (z[0] * np.conj(z[3]))[use] / weight
    expected = ((want[3] + 1j * want[4])[use] / weight).mean()
    assert abs(product.mean() - expected) < 5 / np.sqrt(count) + 0.003
    span = (np.abs(z[:, use]) ** 2).sum(0)
    assert span.mean() == pytest.approx((want[0] + 2 * want[1] + want[2])[use].mean() + 4 * noise, rel=0.06)
    cross = (z[1] * np.conj(z[2]))[use] / (want[1][use] + noise)
    assert cross.mean().real == pytest.approx((want[1][use] / (want[1][use] + noise)).mean(), abs=0.03)


def test_walls_turn_the_phase_and_meadows_do_not(earth: sandbox.Summary, looks: tuple[Look, Look]) -> None:
    """HH-VV phase of a double bounce is near pi, of a rough surface near 0, in the table and in drawn speckle."""
    for name, centre in (("tile roof", np.pi), ("ship", np.pi), ("meadow", 0.0), ("lake", 0.0)):
        terms = covariance_of(SURFACES[CODE[name]])
        z = complex_speckle(np.random.default_rng(3), np.broadcast_to(terms[:, None, None], (5, 120, 120)), 1e-6)
        phase = np.angle((z[0] * np.conj(z[3])).mean() * np.exp(-1j * centre))
        assert abs(phase) < 0.2
        empirical = [np.mean(np.abs(z[k]) ** 2) for k in (0, 1, 3)]
        assert empirical == pytest.approx(terms[:3], rel=0.05)
    z = complex_channels(folder_of(earth, "gaofen-3")[1])
    cover = read(Path(earth.root) / earth.truth["west"]["covariance"])[3:4]
    built = on_map(looks[1], (cover < -0.05).astype(float), (0.0, 0.0))[0] > 0.9
    assert built.sum() > 30
    assert abs(np.angle(-(z[0] * np.conj(z[3]))[built].sum())) < 0.5


def test_covariances_are_possible() -> None:
    """Every surface's covariance is positive semidefinite and cross-polarisation is the weakest."""
    for surface in SURFACES[1:]:
        hh, hv, vv, re, im = covariance_of(surface)
        assert re**2 + im**2 <= hh * vv
        assert 0 < hv < min(hh, vv)


def test_the_rational_polynomials_are_the_geometry(earth: sandbox.Summary, looks: tuple[Look, Look]) -> None:
    """GDAL, reading the RPB text, projects ground points to the exact line and sample within 0.05 pixels."""
    _, folder = folder_of(earth, "gaofen-3")
    text = next(folder.glob("*_HH_*.rpc")).read_text()

    def value(key: str) -> float:
        return float(text.split(f"{key} = ")[1].split(";")[0])

    def vector(key: str) -> list[float]:
        return [float(v) for v in text.split(f"{key} = (")[1].split(");")[0].split(",")]

    model = RPC(
        height_off=value("heightOffset"), height_scale=value("heightScale"), lat_off=value("latOffset"),
        lat_scale=value("latScale"), line_off=value("lineOffset"), line_scale=value("lineScale"),
        long_off=value("longOffset"), long_scale=value("longScale"), samp_off=value("sampOffset"),
        samp_scale=value("sampScale"), line_num_coeff=vector("lineNumCoef"), line_den_coeff=vector("lineDenCoef"),
        samp_num_coeff=vector("sampNumCoef"), samp_den_coeff=vector("sampDenCoef"),
    )  # fmt: skip
    relief = looks[1].footing.ground
    pick = (slice(180, -180, 9), slice(180, -180, 9))
    lon, lat, z = (a[pick].ravel().astype(float) for a in (relief.longitude_deg, relief.latitude_deg, relief.height_m))
    line, sample = looks[1].frame.project(ecef(lon, lat, z))
    with RPCTransformer(model) as law:
        rows, cols = law.rowcol(lon, lat, zs=z, op=lambda v: v)
    assert np.abs(np.asarray(rows) - 0.5 - line).max() < 0.05
    assert np.abs(np.asarray(cols) - 0.5 - sample).max() < 0.05


def test_gaofen3_files_are_where_the_format_has_them(earth: sandbox.Summary) -> None:
    """Four images of I and Q with an RPC each, one meta.xml of their size; zeros at the border only."""
    _, folder = folder_of(earth, "gaofen-3")
    meta = ElementTree.parse(next(folder.glob("*.meta.xml"))).getroot()
    shape = tuple(int(meta.findtext(f"imageinfo/{k}") or 0) for k in ("height", "width"))
    for p in POLARISATIONS:
        tiff = next(folder.glob(f"*_L1A_{p}_*.tiff"))
        assert tiff.with_suffix(".rpc").is_file()
        pixels = read(tiff)
        assert pixels.shape == (2, *shape)
        assert pixels.dtype == np.int16
        empty = (pixels == 0).all(0)
        assert empty[:, :5].all()
        assert not empty[:, 5:].any()


def test_displacements_on_the_map_are_those_of_the_image(earth: sandbox.Summary, looks: tuple[Look, Look]) -> None:
    """A timing error of 0.6 lines and -0.4 samples moves content by the metres told in the summary."""
    told = folder_of(earth, "sentinel-1")[0].shift_m
    assert np.hypot(*told) == pytest.approx(np.hypot(6.0, 4.0), rel=0.05)
    footing = looks[0].footing
    line, sample = np.full((1, 1), 90.0), np.full((1, 1), 120.0)
    level = Footing(footing.ground, *looks[0].frame.project(_level(footing.ground)))
    x0, y0 = level.locate(line, sample, 1e-6)
    x1, y1 = level.locate(line + 0.6, sample - 0.4, 1e-6)
    assert [float(x1[0, 0] - x0[0, 0]), float(y1[0, 0] - y0[0, 0])] == pytest.approx(list(told), abs=0.1)


def _level(ground: Ground) -> np.ndarray:
    return ecef(ground.longitude_deg, ground.latitude_deg, np.full(ground.height_m.shape, 500.0))
