"""A Capella SLC in miniature: complex channels with a rotated affine and its JSON in their tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from tiny_products import ORIGIN, UTM, write_tif


def capella(folder: Path, tags: dict[str, Any] | None = None) -> Path:
    """Complex channels with a rotated affine and Capella's JSON in their tags."""
    rng = np.random.default_rng(5)
    turned = Affine(-0.03, -2.5, ORIGIN[0], 2.5, -0.03, ORIGIN[1])
    for k, pol in enumerate(("hh", "vv")):
        data = (rng.normal(size=(12, 14)) + 1j * rng.normal(size=(12, 14))).astype("complex64")
        collect = {"collect": {"image": {"scale_factor": 1e-4 * (k + 1)}, **(tags or {})}}
        described = {"TIFFTAG_IMAGEDESCRIPTION": json.dumps(collect)}
        write_tif(folder / f"sar_{pol}.tif", data, crs=UTM, transform=turned, tags=described)
    return folder
