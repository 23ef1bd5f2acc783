"""Sentinel-1 IW GRDH products: amplitudes in ground range with GCPs, calibration and noise tables, annotation."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer

from catalog.sandbox import orbit as geometry
from catalog.sandbox import radar
from catalog.sandbox.files import write_radar, write_text
from catalog.sandbox.landscape import Landscape
from catalog.sandbox.orbit import Frame, Ground, Orbit
from catalog.sandbox.plan import Pass, Product
from catalog.sandbox.radar import Look
from catalog.sandbox.scattering import TERMS, gamma_speckle
from catalog.sandbox.sentinel1_xml import annotation, calibration, manifest, noise, noise_lines, table_samples

FloatArray = NDArray[np.floating]

LOOKS = 4.4
"""Equivalent number of looks; neighbouring pixels are independent."""
INCIDENCE_DEG = 39.0
SPACING_M = 10.0
ABS_BETA = 474.0
"""Calibration constant of beta nought."""
NESZ_DB = {"VV": -24.0, "VH": -26.5}
"""Noise equivalent sigma nought at the near edge."""
POINTS = 21
"""Geolocation points along a line."""
BORDER = 6
"""Samples without data at the far edge."""


@dataclass(frozen=True)
class Tables:
    """Radiometry of one image."""

    sigma: FloatArray
    """A_sigma of every sample: sigma nought = (DN^2 - noise) / A_sigma^2."""
    incidence_deg: FloatArray
    """Incidence on the ellipsoid of every sample."""
    noise_range: FloatArray
    """Noise power of every sample, DN^2."""
    noise_azimuth: tuple[FloatArray, FloatArray]
    """Factor of every line in each of two blocks of samples."""
    seam: int
    """First sample of the second block."""

    def annotated(self) -> Tables:
        """The tables as the product tells them: linear between the lines and samples that are annotated."""
        count = len(self.sigma)
        samples, lines = np.arange(count), np.arange(len(self.noise_azimuth[0]))
        at, along = table_samples(count), noise_lines(len(lines))
        sigma, noise = (np.interp(samples, at, v[at]) for v in (self.sigma, self.noise_range))
        left, right = (np.interp(lines, along, v[along]) for v in self.noise_azimuth)
        return Tables(sigma, self.incidence_deg, noise, (left, right), self.seam)

    @property
    def noise(self) -> FloatArray:
        """Noise power (line, sample), DN^2."""
        left, right = self.noise_azimuth
        parts = [
            left[:, None] * self.noise_range[None, : self.seam],
            right[:, None] * self.noise_range[None, self.seam :],
        ]
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Geometry:
    """What the annotation says of an image's place."""

    look: Look
    """The image on the relief."""
    near_m: float
    """Slant range of sample 0."""
    to_slant: FloatArray
    """Coefficients: slant range from ground range."""
    to_ground: FloatArray
    """Coefficients: ground range from slant range less near_m."""
    zero: datetime
    """UTC of time 0."""
    grid: list[dict[str, float]]
    """Geolocation points: line, sample, longitude, latitude, height, incidence, time, slant."""
    kind: str = "GRD"
    """GRD or SLC."""
    swath: str = "IW"
    """IW of a merged GRD, IW1 to IW3 of an SLC."""
    spacing_m: tuple[float, float] = (SPACING_M, SPACING_M)
    """Range and azimuth; slant range in an SLC."""
    valid: tuple[int, int] = (0, 0)
    """First and last valid sample of an SLC's burst."""

    def when(self, t_s: float) -> str:
        """UTC of a time, as annotated."""
        return f"{self.zero + timedelta(microseconds=round(t_s * 1e6)):%Y-%m-%dT%H:%M:%S.%f}"


def look_at(land: Landscape, relief: Ground, echo: NDArray[np.float32]) -> tuple[Look, float, FloatArray, FloatArray]:
    """Lay an image over a region: its view, near range, and the two range polynomials."""
    middle = tuple(n // 2 for n in relief.height_m.shape)
    lon, lat = float(relief.longitude_deg[middle]), float(relief.latitude_deg[middle])
    mean = float(np.median(relief.height_m))
    path = geometry.orbit_over(
        lon, lat, mean, altitude_m=700_000.0, inclination_deg=98.18, incidence_deg=INCIDENCE_DEG, descending=True
    )
    t, slant = path.abeam(radar.border(relief))
    near, far = float(np.floor(slant.min())), float(slant.max())
    to_slant, to_ground, width_m = range_laws(path, near, far, mean, lon, lat)
    speed = _ground_speed(path, lon, lat, mean)
    line_s = SPACING_M / speed
    lines = int(np.ceil((t.max() - t.min()) / line_s)) + 1
    frame = Frame(path, float(np.round(t.min(), 6)), line_s, lines, int(width_m / SPACING_M) + 1 + BORDER,
                  lambda r: np.polynomial.polynomial.polyval(r - near, to_ground) / SPACING_M)  # fmt: skip
    seen = radar.tilted(echo, relief, path, INCIDENCE_DEG)
    return Look(path, frame, geometry.stand(frame, relief), seen), near, to_slant, to_ground


def range_laws(path: Orbit, near_m: float, far_m: float, height_m: float, lon: float, lat: float
               ) -> tuple[FloatArray, FloatArray, float]:  # fmt: skip
    """Polynomials between slant range and distance along the ground abeam of time 0, at a mean height.

    Returns
    -------
    tuple
        Slant range of ground range; ground range of slant range less near_m; ground range of far_m.
    """
    position, velocity = path.state(0.0)
    place = geometry.ecef(lon, lat, height_m)
    up = position / np.linalg.norm(position)
    across = np.cross(velocity, up)
    across /= np.linalg.norm(across)
    across *= np.sign((place - position) @ across)
    down = np.cross(across, velocity)
    down *= -np.sign(down @ up) / np.linalg.norm(down)
    slants = np.linspace(near_m - 60.0, far_m + 150.0, 400)
    ground = _abeam_ground(position, across, down, slants, height_m)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(ground, axis=0), axis=1))])
    along -= np.interp(near_m, slants, along)
    scale = along.max()
    to_slant = np.polynomial.polynomial.polyfit(along / scale, slants, 6) / scale ** np.arange(7)
    reach = slants[-1] - near_m
    to_ground = np.polynomial.polynomial.polyfit((slants - near_m) / reach, along, 6) / reach ** np.arange(7)
    return to_slant, to_ground, float(np.interp(far_m, slants, along))


def _abeam_ground(position: FloatArray, across: FloatArray, down: FloatArray, slants: FloatArray, height_m: float
                  ) -> FloatArray:  # fmt: skip
    angle = np.full(slants.shape, 0.55)
    a, b = 6_378_137.0 + height_m, 6_356_752.314245 + height_m
    axes = np.array([a, a, b])

    def level(look: FloatArray) -> FloatArray:
        at = position + slants[:, None] * (np.cos(look)[:, None] * down + np.sin(look)[:, None] * across)
        return np.linalg.norm(at / axes, axis=1) - 1.0

    for _ in range(30):
        slope = (level(angle + 1e-5) - level(angle - 1e-5)) / 2e-5
        angle = angle - level(angle) / slope
    return position + slants[:, None] * (np.cos(angle)[:, None] * down + np.sin(angle)[:, None] * across)


def _ground_speed(path: Orbit, lon: float, lat: float, height_m: float) -> float:
    here = geometry.ecef(lon, lat, height_m)
    north = geometry.ecef(lon, lat + 0.01, height_m)
    east = geometry.ecef(lon + 0.01, lat, height_m)
    t = [float(path.abeam(p)[0]) for p in (here, north, east)]
    gradient = np.array([(t[1] - t[0]) / np.linalg.norm(north - here), (t[2] - t[0]) / np.linalg.norm(east - here)])
    return float(1.0 / np.linalg.norm(gradient))


def tables(frame: Frame, incidence_deg: FloatArray, polarisation: str) -> Tables:
    """Calibration and noise of one polarisation: A_sigma = A_beta / sqrt(sin incidence), noise with a bowl in range."""
    sigma = ABS_BETA / np.sqrt(np.sin(np.radians(incidence_deg)))
    u = np.linspace(-1.0, 1.0, frame.samples)
    nesz_db = NESZ_DB[polarisation] + 0.9 * u**2 + 0.3 * u
    lines = np.arange(frame.lines)
    ripple, later = (1.0 + 0.05 * np.cos(2 * np.pi * (lines - lag) / 186.0) for lag in (0, 60))
    seam = int(0.45 * frame.samples)
    return Tables(sigma, incidence_deg, 10.0 ** (nesz_db / 10.0) * sigma**2, (ripple, 1.08 * later), seam)


def write(root: Path, land: Landscape, relief: Ground, echo: NDArray[np.float32], acquisition: Pass
          ) -> tuple[Product, Look]:  # fmt: skip
    """Write one product below a folder, and say how it looks at the ground.

    Both polarisations: DN = sqrt(A_sigma^2 sigma0 s + noise s), s the gamma distributed speckle of LOOKS looks.
    """
    look, near, to_slant, to_ground = look_at(land, relief, echo)
    frame = look.frame
    zero = acquisition.when + timedelta(seconds=zlib.crc32(land.region.name.encode()) % 40)
    where = points(look, lambda s: np.polynomial.polynomial.polyval(s * SPACING_M, to_slant))
    g = Geometry(look, near, to_slant, to_ground, zero, where)
    error = (acquisition.shift_m[0] / SPACING_M, acquisition.shift_m[1] / SPACING_M)
    mean = look.image(look.echo[[TERMS.index("VV"), TERMS.index("HV")]], error)
    incidence = incidence_of(where, frame.samples)
    rng = radar.speckle_stream(land, acquisition)
    first, last = g.when(frame.first_s), g.when(frame.first_s + (frame.lines - 1) * frame.line_s)
    stamp = [t[:19].replace("-", "").replace(":", "") for t in (first, last)]
    code = f"{zlib.crc32(f'{land.region.name}/{land.seed}'.encode()) & 0xFFFF:04X}"
    folder = root / f"S1A_IW_GRDH_1SDV_{stamp[0]}_{stamp[1]}_060461_0786F1_{code}.SAFE"
    parts: dict[str, Path] = {}
    for i, polarisation in enumerate(("VV", "VH")):
        table = tables(frame, incidence, polarisation)
        power = mean[i] * table.sigma[None, :] ** 2 + table.noise
        dn = np.clip(np.rint(np.sqrt(gamma_speckle(rng, power, LOOKS))), 1, 65_535).astype(np.uint16)
        dn[:, frame.samples - BORDER :] = 0
        stem = f"s1a-iw-grd-{polarisation.lower()}-{stamp[0].lower()}-{stamp[1].lower()}-060461-0786f1-{i + 1:03d}"
        parts |= {
            f"product-{polarisation}": folder / "annotation" / f"{stem}.xml",
            f"calibration-{polarisation}": folder / "annotation" / "calibration" / f"calibration-{stem}.xml",
            f"noise-{polarisation}": folder / "annotation" / "calibration" / f"noise-{stem}.xml",
            f"measurement-{polarisation}": folder / "measurement" / f"{stem}.tiff",
        }
        gcps = [(p["line"], p["sample"], p["longitude"], p["latitude"], p["height"]) for p in where]
        write_radar(parts[f"measurement-{polarisation}"], dn, gcps)
        write_text(parts[f"product-{polarisation}"], annotation(g, polarisation, i + 1, dn))
        write_text(parts[f"calibration-{polarisation}"], calibration(g, polarisation, i + 1, table, ABS_BETA))
        write_text(parts[f"noise-{polarisation}"], noise(g, polarisation, i + 1, table))
    write_text(folder / "manifest.safe", manifest(g, folder, parts))
    moved = radar.displacement(look, error)
    return Product(folder.name, "sentinel-1", land.region.name, acquisition.date, moved, 0.0), look


def incidence_of(where: list[dict[str, float]], samples: int) -> FloatArray:
    """Incidence on the ellipsoid of every sample, degrees."""
    first = where[:POINTS]
    return np.interp(np.arange(samples), [p["sample"] for p in first], [p["incidence_flat"] for p in first])


def worth(folder: Path, look: Look) -> dict[str, tuple[FloatArray, FloatArray, FloatArray]]:
    """What the counts of a product are worth: (DN^2 - noise) / A_sigma^2, the same with the noise left in, and DN.

    Returns
    -------
    dict
        Polarisation to three arrays (line, sample), float64; the first two NaN where nothing was measured.
    """
    incidence = incidence_of(points(look, np.zeros_like), look.frame.samples)  # incidence asks for no slant range
    known = {}
    for polarisation in ("VV", "VH"):
        table = tables(look.frame, incidence, polarisation).annotated()
        with rasterio.open(next(folder.glob(f"measurement/*-{polarisation.lower()}-*.tiff"))) as source:
            dn = source.read(1).astype(np.float64)
        a2 = table.sigma[None, :] ** 2
        net, gross = (np.where(dn == 0, np.nan, v / a2) for v in (dn**2 - table.noise, dn**2))
        known[polarisation] = (net, gross, dn)
    return known


def points(look: Look, slant_of: Callable[[FloatArray], FloatArray]) -> list[dict[str, float]]:
    """The geolocation points of an image, POINTS along each of its lines; `slant_of` is the slant range of samples."""
    frame, relief = look.frame, look.footing.ground
    lines = np.unique(np.linspace(0, frame.lines - 1, max(6, frame.lines // 120)).round())
    samples = np.linspace(0, frame.samples - 1, POINTS).round()
    line, sample = (a.astype(float) for a in np.meshgrid(lines, samples, indexing="ij"))
    x, y = look.footing.locate(line, sample, 1e-5)
    z = relief.at(x, y, relief.height_m.astype(np.float64))
    lon, lat = Transformer.from_crs(relief.grid.epsg, 4326, always_xy=True).transform(x, y)
    t = frame.first_s + line * frame.line_s
    slant = slant_of(sample)
    sight = look.orbit.state(t)[0] - geometry.ecef(lon, lat, z)
    cosine = np.einsum("...i,...i", sight, geometry.vertical(lon, lat)) / np.linalg.norm(sight, axis=-1)
    incidence = np.degrees(np.arccos(cosine))
    flat = incidence.mean(0)
    smooth = np.polynomial.polynomial.polyval(samples, np.polynomial.polynomial.polyfit(samples, flat, 1))
    names = ("line", "sample", "longitude", "latitude", "height", "incidence", "time", "slant", "incidence_flat")
    layers = (line, sample, lon, lat, z, incidence, t, slant, np.broadcast_to(smooth, line.shape))
    table = np.stack([a.ravel() for a in layers], 1)
    return [dict(zip(names, map(float, row), strict=True)) for row in table]
