"""How far calibration is from the truth, satellite by satellite: the sandbox's counts, and vendors' worked examples."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from catalog import laws, read
from catalog.calibrate.constants import calibrate
from catalog.register import register
from catalog.sandbox.products import Specimen, make_radiometry
from catalog.scene import Scene

LEAST_DN = 100.0
"""Below this amplitude an error is told as relative power, above it in decibels."""


def scene_of(specimen: Specimen, out: Path) -> Scene:
    """Register a product and read its item as a scene."""
    found = register(specimen.folder, out)
    if found.failed:
        raise AssertionError(found.failed)
    (item,) = found.items
    return Scene.from_item(item)


def calibrated(scene: Scene, band: str) -> xr.DataArray:
    """(y, x), every pixel of a band in its product's own geometry, by the house's laws."""
    dn = read.read_native(scene, [band])
    return calibrate(dn, laws.constants_of(scene, [band]), scene.quantity).compute().sel(band=band)


def errors_of(specimen: Specimen, out: Path) -> dict[str, float]:
    """Worst errors of a product against what its counts are worth.

    Returns
    -------
    dict
        reflectance: worst absolute error. db: worst where an amplitude is LEAST_DN counts or more; relative: worst
        share of the power below; radians: worst error of a phase. pixels: how many were compared.
    """
    scene = scene_of(specimen, out)
    if scene.quantity != specimen.quantity:
        raise AssertionError(f"{scene.id} is {scene.quantity}, not {specimen.quantity}")
    worst: dict[str, float] = {"pixels": 0.0}
    for band in specimen.bands:
        want, got = specimen.layer(band), calibrated(scene, band).values
        assert want is not None
        if not np.array_equal(np.isnan(want), np.isnan(got)):
            raise AssertionError(f"{scene.id} {band}: no-data lies elsewhere than in the truth")
        seen = ~np.isnan(want)
        worst["pixels"] += float(seen.sum())
        for name, value in _worst(specimen, band, want[seen], got[seen], seen).items():
            worst[name] = max(worst.get(name, 0.0), value)
    return worst


def _worst(specimen: Specimen, band: str, want: np.ndarray, got: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    if specimen.quantity.endswith("reflectance"):
        return {"reflectance": float(np.abs(got - want).max())}
    errors = {}
    if np.iscomplexobj(want):
        errors["radians"] = float(np.abs(np.angle(got.astype(np.complex128) * np.conj(want))).max())
        want, got = np.abs(want) ** 2, np.abs(got.astype(np.complex128)) ** 2
    gross = specimen.layer(f"{band}.gross")
    power = want if gross is None else gross[seen]
    counts = specimen.layer(f"{band}.counts")
    large = np.ones(want.shape, bool) if counts is None else counts[seen] >= LEAST_DN
    share = np.abs(got - want) / power
    errors["db"] = float(10 * np.log10(1 + share[large].max(initial=0.0)))
    errors["relative"] = float(share[~large].max(initial=0.0))
    return errors


def worst_errors(root: Path | None = None, *, size_px: int = 64) -> dict[str, dict[str, float]]:
    """Worst errors of every satellite of the table: its sandbox products, its worked examples.

    Parameters
    ----------
    root
        Where to write the products; a temporary folder without it.
    size_px
        Side of the sandbox's region.
    """
    if root is None:
        with tempfile.TemporaryDirectory() as folder:
            return worst_errors(Path(folder), size_px=size_px)
    return worst_of(make_radiometry(root, size_px=size_px), root / "catalogue")


def worst_of(specimens: Sequence[Specimen], out: Path) -> dict[str, dict[str, float]]:
    """Worst errors by satellite over some products, registered in the catalogue at `out`."""
    worst: dict[str, dict[str, float]] = {}
    for specimen in specimens:
        known = worst.setdefault(specimen.sensor, {})
        for name, value in errors_of(specimen, out).items():
            known[name] = known.get(name, 0.0) + value if name == "pixels" else max(known.get(name, 0.0), value)
    return worst
