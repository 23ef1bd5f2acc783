"""Sun angles of Sentinel-2's tile XML on any grid: planes are exact, north is passed, nothing is invented outside."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog.errors import MetadataError
from catalog.metadata.sentinel2_angles import TileAngles, read_angles, sun_at, sun_on

ULX, ULY, STEP, NODES = 699_960.0, 5_200_020.0, 5000.0, 23
ROWS, COLUMNS = np.mgrid[0:NODES, 0:NODES].astype(float)
ZENITH = 25.0 + 0.05 * ROWS - 0.03 * COLUMNS
AZIMUTH = (350.0 + 0.8 * COLUMNS + 0.1 * ROWS) % 360.0


def values(table: np.ndarray) -> str:
    rows = "".join(
        f"<VALUES>{' '.join(f'{v:.9f}' if np.isfinite(v) else 'NaN' for v in row)}</VALUES>" for row in table
    )
    return f"<COL_STEP>{STEP:g}</COL_STEP><ROW_STEP>{STEP:g}</ROW_STEP><Values_List>{rows}</Values_List>"


def xml(path: Path, zenith: np.ndarray = ZENITH, azimuth: np.ndarray = AZIMUTH) -> Path:
    """A tile XML of nothing but geocoding and angles."""
    views = "".join(
        f'<Mean_Viewing_Incidence_Angle bandId="{k}"><ZENITH_ANGLE>{5 + k / 10}</ZENITH_ANGLE>'
        f"<AZIMUTH_ANGLE>{280 + k}</AZIMUTH_ANGLE></Mean_Viewing_Incidence_Angle>"
        for k in range(13)
    )
    path.write_text(
        f"""<n1:Level-1C_Tile_ID xmlns:n1="urn:x"><n1:Geometric_Info><Tile_Geocoding>
<HORIZONTAL_CS_CODE>EPSG:32632</HORIZONTAL_CS_CODE><Geoposition resolution="10"><ULX>{ULX}</ULX><ULY>{ULY}</ULY>
</Geoposition></Tile_Geocoding><Tile_Angles><Sun_Angles_Grid><Zenith>{values(zenith)}</Zenith>
<Azimuth>{values(azimuth)}</Azimuth></Sun_Angles_Grid><Mean_Sun_Angle><ZENITH_ANGLE>25.2</ZENITH_ANGLE>
<AZIMUTH_ANGLE>0.1</AZIMUTH_ANGLE></Mean_Sun_Angle><Mean_Viewing_Incidence_Angle_List>{views}
</Mean_Viewing_Incidence_Angle_List></Tile_Angles></n1:Geometric_Info></n1:Level-1C_Tile_ID>"""
    )
    return path


@pytest.fixture
def angles(tmp_path: Path) -> TileAngles:
    return read_angles(xml(tmp_path / "MTD_TL.xml"))


def test_nodes_keep_their_values_and_a_plane_is_exact_between(angles: TileAngles) -> None:
    """Bilinear interpolation reproduces a linear zenith at nodes and at random points to rounding."""
    zenith, _ = sun_at(angles, ULX + STEP * COLUMNS, ULY - STEP * ROWS)
    np.testing.assert_allclose(zenith, ZENITH, atol=1e-8)
    rng = np.random.default_rng(3)
    row, column = rng.uniform(0, NODES - 1, (2, 500))
    zenith, _ = sun_at(angles, ULX + STEP * column, ULY - STEP * row)
    np.testing.assert_allclose(zenith, 25.0 + 0.05 * row - 0.03 * column, atol=1e-8)


def test_bilinear_agrees_with_scipy(tmp_path: Path) -> None:
    """On random nodes an independent interpolator gives the same."""
    from scipy.interpolate import RegularGridInterpolator

    rng = np.random.default_rng(4)
    table = rng.uniform(20, 60, (NODES, NODES)).round(6)
    angles = read_angles(xml(tmp_path / "MTD_TL.xml", zenith=table))
    points = rng.uniform(0, NODES - 1, (300, 2))
    other = RegularGridInterpolator((np.arange(NODES), np.arange(NODES)), table)(points)
    zenith, _ = sun_at(angles, ULX + STEP * points[:, 1], ULY - STEP * points[:, 0])
    np.testing.assert_allclose(zenith, other, atol=1e-8)


def test_azimuth_passes_north_without_a_jump(angles: TileAngles) -> None:
    """Halfway between 359.6 and 0.4 lies 0, not 180."""
    column = np.linspace(0, NODES - 1, 400)
    _, azimuth = sun_at(angles, ULX + STEP * column, ULY)
    wanted = 350.0 + 0.8 * column
    apart = (azimuth - wanted + 180) % 360 - 180
    assert np.abs(apart).max() < 1e-3
    assert azimuth.min() >= 0
    assert azimuth.max() < 360


def test_outside_the_nodes_and_beside_a_hole_there_is_nothing(tmp_path: Path) -> None:
    """NaN beyond the first and last node and in the four cells around a node without a value, and only there."""
    table = ZENITH.copy()
    table[5, 7] = np.nan
    angles = read_angles(xml(tmp_path / "MTD_TL.xml", zenith=table))
    row = np.array([-0.001, 22.001, 5.0, 4.5, 5.5, 6.0, 5.0])
    column = np.array([3.0, 3.0, 7.0, 7.5, 6.5, 7.0, 8.0])
    zenith, _ = sun_at(angles, ULX + STEP * column, ULY - STEP * row)
    assert np.isnan(zenith).tolist() == [True, True, True, True, True, False, False]


def test_any_grid_in_any_crs(angles: TileAngles) -> None:
    """A grid of 100 m in the tile's CRS is sampled at pixel centres; in degrees the same places have the same sun."""
    grid = GeoBox((40, 50), Affine(100.0, 0, ULX + 20_000, 0, -100.0, ULY - 30_000), "EPSG:32632")
    zenith, azimuth = sun_on(angles, grid)
    assert zenith.shape == azimuth.shape == (40, 50)
    expected = 25.0 + 0.05 * (30_000 + 100 * (np.arange(40) + 0.5)) / STEP
    np.testing.assert_allclose(zenith[:, 0], expected - 0.03 * (20_000 + 50) / STEP, atol=1e-8)
    degrees = grid.to_crs("EPSG:4326")
    geographic, _ = sun_on(angles, degrees)
    assert np.isfinite(geographic).mean() > 0.9
    assert abs(np.nanmean(geographic) - zenith.mean()) < 1e-3


def test_view_angles_are_the_means_of_each_band(angles: TileAngles) -> None:
    """bandId 0 to 12 are B01 to B12 with B8A at 8; the tile's mean sun is the file's."""
    assert len(angles.mean_view_deg) == 13
    assert angles.mean_view_deg["B8A"] == (5.8, 288.0)
    assert angles.mean_view_deg["B12"] == (6.2, 292.0)
    assert angles.mean_sun_deg == (25.2, 0.1)


SPOILT = {
    "no grid": (r"<Sun_Angles_Grid>.*</Sun_Angles_Grid>", "", "Sun_Angles_Grid"),
    "one row": (r"(<Zenith>.*?<Values_List><VALUES>[^<]*</VALUES>).*?</Values_List>", r"\1</Values_List>", "Zenith"),
    "ragged": (r"(<Azimuth>.*?<VALUES>)\S+ ", r"\1", "Azimuth"),
    "text": (r"(<Zenith>.*?<VALUES>)\S+", r"\1north", "Zenith"),
    "below zero": (r"(<Zenith>.*?<VALUES>)\S+", r"\1-3.0", "Zenith"),
    "no step": (r"<COL_STEP>5000", "<COL_STEP>0", "COL_STEP"),
    "two grids": (r"(<Azimuth><COL_STEP>)5000", r"\g<1>2500", "different nodes"),
    "band 99": (r'bandId="12"', 'bandId="99"', "bandId"),
    "cut off": (r"</Tile_Angles>.*", "", "cut off"),
    "NaN view": (r"<ZENITH_ANGLE>5.0<", "<ZENITH_ANGLE>NaN<", "ZENITH_ANGLE"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_damaged_angles_are_refused_by_file_and_field(kind: str, tmp_path: Path) -> None:
    """Missing, ragged, out of range or cut off: the error names the file and the field."""
    path, (pattern, with_what, field) = xml(tmp_path / "MTD_TL.xml"), SPOILT[kind]
    path.write_text(re.sub(pattern, with_what, path.read_text(), count=0 if kind == "no step" else 1, flags=re.S))
    with pytest.raises(MetadataError, match=field) as refused:
        read_angles(path)
    assert "MTD_TL.xml" in refused.value.item
