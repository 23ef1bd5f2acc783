"""Real radar products against independent readers and against their own annotation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr

from catalog import laws
from catalog.calibrate import polarimetry
from catalog.calibrate.constants import calibrate, provenance
from catalog.errors import MetadataError
from catalog.formats import geometry_of, sentinel1_slc
from catalog.geocode import image_coordinates, place_by_orbit
from catalog.metadata import sentinel1, sentinel1_bursts, sentinel1_luts
from catalog.read import read_native
from catalog.register import register
from catalog.scene import Scene

REAL = Path(os.environ.get("RINGMOE_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real products are not at {REAL}")


@pytest.fixture(scope="module")
def slc() -> Path:
    return next((REAL / "s1_safe_metadata").glob("*_SLC__*.SAFE"))


@pytest.fixture(scope="module")
def swaths(slc: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    found = register(slc, tmp_path_factory.mktemp("slc") / "catalog")
    assert found.failed == ()
    assert len(found.items) == sum(1 for s in map(Scene.from_item, found.items) if s.properties["ringmoe:burst"])
    first = [i for i in found.items if i.properties["ringmoe:burst"]["number"] == 1]
    return {str(i.properties["ringmoe:swath"]): Scene.from_item(i) for i in first}


@pytest.fixture(scope="module")
def quad(tmp_path_factory: pytest.TempPathFactory) -> xr.DataArray:
    """The Capella channels as calibrated complex amplitude."""
    found = register(REAL / "slc_capella_quadpol", tmp_path_factory.mktemp("capella") / "catalog")
    scene = Scene.from_item(found.items[0])
    bands = ["HH", "HV", "VH", "VV"]
    return calibrate(read_native(scene, bands), laws.constants_of(scene, bands), scene.quantity)


def _worst(ours: Any, theirs: Any) -> float:
    one, other = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    assert one.shape == other.shape
    return float(np.max(np.abs(one - other) / np.maximum(np.abs(other), 1e-300)))


def test_slc_tables_against_xarray_sentinel(slc: Path) -> None:
    """Every calibration and noise look-up table of the real SLC is xarray-sentinel's to 1e-6."""
    reader = pytest.importorskip("xarray_sentinel.sentinel1")
    worst: dict[str, float] = {}
    for path in sorted((slc / "annotation" / "calibration").glob("calibration-*.xml")):
        ours, theirs = sentinel1_luts.read_calibration(path), reader.open_calibration_dataset(path)
        np.testing.assert_array_equal(ours.lines, theirs.line)
        np.testing.assert_array_equal(ours.pixels, theirs.pixel)
        for mine, name in (("sigma_nought", "sigmaNought"), ("beta_nought", "betaNought"), ("gamma_nought", "gamma")):
            worst[mine] = max(worst.get(mine, 0.0), _worst(ours.gain(mine), theirs[name]))
    for path in sorted((slc / "annotation" / "calibration").glob("noise-*.xml")):
        table, across = sentinel1_luts.read_noise(path), reader.open_noise_range_dataset(path)
        np.testing.assert_array_equal([v.line for v in table.range_vectors], across.line)
        for vector, row in zip(table.range_vectors, across.noiseRangeLut.values, strict=True):
            worst["noise range"] = max(worst.get("noise range", 0.0), _worst(vector.lut, row))
        along = reader.open_noise_azimuth_dataset(path)
        np.testing.assert_array_equal(table.azimuth_vectors[0].lines, along.line)
        factor = _worst(table.azimuth_vectors[0].lut, along.noiseAzimuthLut)
        worst["noise azimuth"] = max(worst.get("noise azimuth", 0.0), factor)
    print({name: f"{value:.1e}" for name, value in worst.items()})
    assert set(worst) == {"sigma_nought", "beta_nought", "gamma_nought", "noise range", "noise azimuth"}
    assert max(worst.values()) <= 1e-6


def test_calibrated_slc_against_xarray_sentinel(slc: Path, swaths: dict[str, Scene]) -> None:
    """|S|^2 of a window of real lines is xarray-sentinel's intensity by its own interpolation, to 1e-6."""
    reader = pytest.importorskip("xarray_sentinel.sentinel1")
    scene = swaths["IW1"]
    dn = read_native(scene, ["VV"], chunks={"y": 1501, "x": 2048})
    constants = laws.constants_of(scene, ["VV"])
    # Every pixel of the copy is the same constant, so what is compared is the table at every pixel.
    power = np.abs(calibrate(dn[:, :40, :3000].compute(), constants, scene.quantity)) ** 2
    sigma = reader.open_calibration_dataset(Path(scene.metadata["calibration-VV"])).sigmaNought.astype(float)
    at = sigma.interp(line=np.arange(40), pixel=np.arange(3000))
    assert _worst(power[0], np.abs(dn[0, 0, 0].compute().item()) ** 2 / at**2) <= 1e-6


def test_grd_annotation_against_xarray_sentinel() -> None:
    """Orbit, slant to ground range polynomials and geolocation points of the real GRD are xarray-sentinel's."""
    reader = pytest.importorskip("xarray_sentinel.sentinel1")
    path = next((REAL / "s1_safe_metadata").glob("*_GRDH_*.SAFE/annotation/s1b-iw-grd-vv-*.xml"))
    note = sentinel1.read_annotation(path)
    orbit = reader.open_orbit_dataset(path)
    assert _worst(note.orbit_position_m.T, orbit.position.transpose("axis", "azimuth_time")) <= 1e-12
    assert _worst(note.orbit_velocity_m_s.T, orbit.velocity.transpose("axis", "azimuth_time")) <= 1e-12
    ranges = reader.open_coordinate_conversion_dataset(path)
    assert (
        _worst([c.srgr for c in note.conversions], ranges.srgrCoefficients.transpose("azimuth_time", "degree")) <= 1e-12
    )
    points = reader.open_gcp_dataset(path)
    assert _worst(np.sort(note.geolocation.latitude_deg), np.sort(points.latitude.values.ravel())) <= 1e-12
    assert _worst(np.sort(note.geolocation.height_m), np.sort(points.height.values.ravel())) <= 1e-9


def test_bursts_place_their_annotated_points(swaths: dict[str, Scene]) -> None:
    """Each burst's own grid places the annotated points of a real swath to 0.1 line and 0.01 sample."""
    for scene in swaths.values():
        note = sentinel1.read_annotation(Path(scene.metadata["annotation-VH"]))
        timing, points = sentinel1_bursts.read_bursts(note.path), note.geolocation
        grids = sentinel1_slc.burst_geometry(scene)
        assert len(grids) == len(timing.bursts) == scene.properties["ringmoe:bursts"]["count"]
        assert all(b.first_valid.size == timing.lines for b in timing.bursts)
        for k, grid in enumerate(grids):
            inside = points.line // timing.lines == k
            place = points.longitude_deg[inside], points.latitude_deg[inside], points.height_m[inside]
            line, sample = image_coordinates(grid, *place)
            assert np.abs(line + k * timing.lines - points.line[inside]).max() < 0.1
            assert np.abs(sample - points.pixel[inside]).max() < 0.01


def test_a_burst_lies_where_its_annotated_points_do(slc: Path, tmp_path: Path) -> None:
    """Each pixel of the third burst that has an annotated point is placed, at the point's height, within a metre."""
    (item,) = (i for i in register(slc, tmp_path).items if i.id.endswith("_IW1_B3"))
    scene = Scene.from_item(item)
    note = sentinel1.read_annotation(Path(scene.metadata["annotation-VH"]))
    first, points = scene.properties["ringmoe:burst"]["first_line"], note.geolocation
    own = np.flatnonzero((points.line >= first) & (points.line < first + scene.properties["ringmoe:burst"]["lines"]))
    assert own.size > 10
    for k in own:
        origin = int(points.line[k] - first), int(points.pixel[k])
        longitude, latitude, _ = place_by_orbit(geometry_of(scene), (2, 2), float(points.height_m[k]), origin=origin)
        east = (longitude.values[0, 0] - points.longitude_deg[k]) * np.cos(np.radians(points.latitude_deg[k]))
        assert 111_320 * np.hypot(east, latitude.values[0, 0] - points.latitude_deg[k]) < 1.0


def test_slc_keeps_its_noise_level(swaths: dict[str, Scene]) -> None:
    """The noise of the real swath is -27 to -20 dB sigma nought, recorded and not taken off."""
    scene = swaths["IW1"]
    record = provenance(laws.constants_of(scene, ["VV", "VH"]))
    assert record["noise"].startswith("left in")
    for level in record["noise_level_db"].values():
        assert -27 < level["min"] < level["median"] < level["max"] < -20


def test_capella_coherence_and_span(quad: xr.DataArray) -> None:
    """Over all pixels |<HV VH*>| / sqrt(<|HV|^2> <|VH|^2>) is 0.478; the trace of C4 is the span to 1e-6."""
    hv, vh = quad.sel(band="HV"), quad.sel(band="VH")
    assert float(polarimetry.coherence(hv, vh)) == pytest.approx(0.478, abs=5e-4)
    power = (np.abs(quad.astype("complex128")) ** 2).sum("band")
    assert _worst(polarimetry.span(polarimetry.covariance4(quad)), power) <= 1e-6


def _matrix(kind: str) -> xr.DataArray:
    """A PolSARpro matrix of the real scene, (row, column, y, x) complex128."""

    def plane(name: str) -> np.ndarray:
        return np.fromfile(REAL / "polsar_c3t3" / f"{kind}3" / f"{kind}{name}.bin", "<f4").astype(float)

    upper = {
        (i, j): plane(f"{i + 1}{j + 1}")
        if i == j
        else plane(f"{i + 1}{j + 1}_real") + 1j * plane(f"{i + 1}{j + 1}_imag")
        for i in range(3)
        for j in range(i, 3)
    }
    rows = [[upper[i, j] if i <= j else np.conj(upper[j, i]) for j in range(3)] for i in range(3)]
    return xr.DataArray(np.array(rows)[:, :, None, :], dims=("row", "column", "y", "x"))


def test_matrices_of_another_program_convert_both_ways() -> None:
    """C3 and T3 that PolSARpro wrote turn into each other to 1e-6 of the span; the span is one and the same."""
    covariance, coherency = _matrix("C"), _matrix("T")
    power = polarimetry.span(coherency)
    one = np.abs(polarimetry.coherency_from_covariance(covariance) - coherency) / power
    other = np.abs(polarimetry.covariance_from_coherency(coherency) - covariance) / power
    print(f"C3 to T3 {float(one.max()):.1e}, T3 to C3 {float(other.max()):.1e}")
    assert max(float(one.max()), float(other.max())) <= 1e-6
    assert _worst(polarimetry.span(covariance), power) <= 1e-6


def test_nisar_files_are_read(tmp_path: Path) -> None:
    """Five images of three real files in NISAR's layout: pixels as h5py has them, lines and samples within the DEM."""
    found = register(REAL / "slc_uavsar_nisar", tmp_path / "catalog")
    assert found.failed == ()
    scenes = {i.id: Scene.from_item(i) for i in found.items}
    assert {n: s.bands["HH"].shape for n, s in scenes.items()} == {
        "SanAnd_129_A": (150, 200),
        "SanAnd_129_B": (150, 50),
        "SanAnd_138_A": (150, 400),
        "SanAnd_138_B": (150, 50),
        "winnipeg_A": (250, 250),
    }
    for name, scene in scenes.items():
        with h5py.File(scene.metadata["rslc"]) as file:
            stored = file[f"science/LSAR/SLC/swaths/frequency{name[-1]}/HH"][()]
        np.testing.assert_array_equal(read_native(scene).values[0], stored)
        with pytest.raises(MetadataError, match="geometry/sigma0: is missing"):
            laws.constants_of(scene, ["HH"])
    with rasterio.open(REAL / "slc_uavsar_nisar" / "winnipeg_dem.tif") as dem:
        rows, cols = np.mgrid[0 : dem.height : 5, 0 : dem.width : 5]
        longitude, latitude = dem.transform * (cols + 0.5, rows + 0.5)
        line, sample = image_coordinates(
            geometry_of(scenes["winnipeg_A"]), longitude, latitude, dem.read(1)[rows, cols]
        )
    assert ((line >= 0) & (line < 250) & (sample >= 0) & (sample < 250)).sum() > 250
