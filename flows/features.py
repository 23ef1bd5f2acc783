"""Cubes, an encoder without a head -> feature maps: what it sees, as the components that vary most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import affine
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from catalog.ledger import Ledger
from catalog.publish.features import features_item, write_features
from catalog.publish.items import Sources
from flows import progress
from flows.models import device
from flows.refs import InferRequest
from ringmoe.checkpoint import Checkpoint
from ringmoe.components import Components, FeatureMap
from ringmoe.draw import bands_of
from ringmoe.infer import Tiling, reader
from ringmoe.modality import Modality


def make(
    folder: Path,
    item_id: str,
    found: Checkpoint,
    whole: xr.Dataset,
    box: GeoBox,
    request: InferRequest,
    ledger: Ledger,
    sources: Sources,
    properties: Mapping[str, Any],
) -> dict[str, Any]:
    """Feature maps of a mosaic as one COG, one pixel a patch of the encoder, and its item.

    Parameters
    ----------
    whole
        Of composites, `data` (band, y, x), which the checkpoint's contract takes.
    box
        Its grid.
    """
    attrs = whole.attrs
    walked = FeatureMap(
        found.model.to(device()),
        Modality(attrs["modality"]),
        reader(whole, described=found.contract.described),
        (int(whole.sizes["y"]), int(whole.sizes["x"])),
        bands=bands_of(found.contract, attrs),
        gsd_m=float(attrs["gsd_m"]),
        tiling=Tiling(tile=request.tile_px, overlap=request.overlap_px),
    )
    components = walked.components(request.components)
    coarse = patches(box, walked.patch)
    texts = described(components.shares)
    rows = walked.project(components, lambda row: progress.tell("infer", row, coarse.height, item_id))
    measured = write_features(folder, rows, coarse, texts)
    _keep(folder / "components.json", components)
    more = {
        "ringmoe:features": "principal components of all stages of the encoder's pyramid, each stage of variance 1",
        "ringmoe:variance_shares": [round(share, 6) for share in components.shares],
        "ringmoe:measured_share": round(measured / (coarse.height * coarse.width), 6),
    }
    tables = [folder / "components.json"]
    return features_item(ledger, item_id, folder, coarse, texts, sources, {**properties, **more}, tables)


def patches(box: GeoBox, patch: int) -> GeoBox:
    """The grid of an encoder's patches over a raster's; the last row and column may reach beyond it."""
    return GeoBox((-(-box.height // patch), -(-box.width // patch)), box.affine * affine.Affine.scale(patch), box.crs)


def described(shares: Sequence[float]) -> list[str]:
    """What each component is, in words."""
    return [f"component {k}, {share:.1%} of the variance" for k, share in enumerate(shares, start=1)]


def _keep(path: Path, found: Components) -> None:
    """Mean and projections, so that other rasters can be brought onto the same components."""
    rows = {"mean": found.mean_D, "weights": found.weight_KD}
    numbers = {name: np.round(t.numpy().astype(np.float64), 7).tolist() for name, t in rows.items()}
    path.write_text(json.dumps({"shares": list(found.shares), **numbers}, sort_keys=True) + "\n")
