"""Feature maps: components of what an encoder sees, however the raster is cut, and none where nothing was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ringmoe import presets
from ringmoe.backbone import RingMoE
from ringmoe.components import FeatureMap
from ringmoe.errors import DataError, TileError
from ringmoe.infer import Tiling
from ringmoe.modality import Chips, Modality
from ringmoe.tiling import Window

H, W = 100, 72


@pytest.fixture(scope="module")
def encoder() -> RingMoE:
    torch.manual_seed(0)
    shape = replace(presets.nano(), dim=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), post_norm_init=1.0)
    shape = replace(shape, specialized=1, collaborative=1)
    return RingMoE(shape, replace(presets.paper_contract(), described=True)).eval()


@pytest.fixture(scope="module")
def raster() -> tuple[np.ndarray, np.ndarray]:
    """Four bands with a gradient, a square that was not measured."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(4, H, W)).astype(np.float32) + np.linspace(0, 3, W, dtype=np.float32)
    valid = np.ones((H, W), bool)
    valid[20:40, 8:24] = False
    pixels[:, ~valid] = np.nan
    return pixels, valid


def walked(encoder: RingMoE, raster: tuple[np.ndarray, np.ndarray], tiling: Tiling) -> FeatureMap:
    pixels, valid = raster

    def read(w: Window) -> tuple[np.ndarray, np.ndarray]:
        at = (slice(w.y0, w.y0 + w.h), slice(w.x0, w.x0 + w.w))
        return pixels[:, *at], valid[at]

    return FeatureMap(encoder, Modality.MS, read, valid.shape, tiling=tiling)


def test_components_are_those_of_the_features_by_hand(encoder, raster):
    """One tile over all: mean, orthogonal directions, falling shares and variances as of an eigen-decomposition of the
    stages put side by side, each of total variance 1; a patch of which less than half was measured is NaN."""
    walk = walked(encoder, raster, Tiling(tile=128, overlap=0))
    found = walk.components(5)
    (rows,) = walk.project(found)
    assert rows.values_KHW.shape == (5, 25, 18)
    hidden = np.zeros((25, 18), bool)
    hidden[5:10, 2:6] = True
    assert np.array_equal(np.isnan(rows.values_KHW[0]), hidden)

    pixels = np.pad(np.nan_to_num(raster[0]), [(0, 0), (0, 28), (0, 24)])
    valid = np.pad(raster[1], [(0, 28), (0, 24)])
    with torch.inference_mode():
        chips = Chips(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None])
        pyramid = encoder({Modality.MS: chips}).pyramids[Modality.MS]
    maps = [torch.nn.functional.interpolate(m, (32, 24), mode="bilinear", align_corners=False)[0] for m in pyramid]
    parts = [m[:, :25, :18].double().flatten(1).T[torch.from_numpy(~hidden).flatten()] for m in maps]
    scaled = torch.cat([(p - p.mean(0)) / p.var(0, correction=0).sum().sqrt() for p in parts], 1)
    value, _ = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    assert found.shares == pytest.approx((value.flip(0)[:5] / 4).tolist(), rel=1e-4)
    values = rows.values_KHW[:, ~hidden].astype(np.float64)
    assert values.mean(1) == pytest.approx(np.zeros(5), abs=1e-5)
    covariance = values @ values.T / values.shape[1]
    assert np.diag(covariance) == pytest.approx(value.flip(0)[:5].numpy(), rel=1e-3)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-4


def test_tiles_come_together_without_gaps(encoder):
    """Small tiles give every row once, in order, with data exactly where one tile has it. Without attention's part a
    patch's features depend on no far one: but for the stages' interpolation at a tile's border, values are the same."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(4, 128, 96)).astype(np.float32) + np.linspace(0, 3, 96, dtype=np.float32)
    raster = pixels, np.ones((128, 96), bool)
    raster[1][64:90, 30:60] = False
    blind = RingMoE(replace(encoder.config, post_norm_init=0.0), encoder.contract).eval()
    whole, cut = (walked(blind, raster, Tiling(tile=t, overlap=o)) for t, o in ((128, 0), (64, 32)))
    found = whole.components(3)
    one = np.concatenate([r.values_KHW for r in whole.project(found)], 1)
    rows = list(cut.project(found))
    assert [r.y0 for r in rows] == [0, 8, 16]
    many = np.concatenate([r.values_KHW for r in rows], 1)
    assert np.array_equal(np.isnan(one), np.isnan(many))
    seen = ~np.isnan(one[0])
    assert all(np.corrcoef(a[seen], b[seen])[0, 1] > 0.98 for a, b in zip(one, many, strict=True))
    again = walked(blind, raster, Tiling(tile=128, overlap=0)).components(3)
    assert torch.equal(again.weight_KD, found.weight_KD)


def test_nothing_measured_and_tiles_that_do_not_fit_are_refused(encoder, raster):
    """Four parts each, and what would have been enough."""
    nothing = raster[0], np.zeros((H, W), bool)
    with pytest.raises(DataError, match="too little to take components of") as caught:
        walked(encoder, nothing, Tiling(tile=64, overlap=32)).components(3)
    assert "0 measured patches" in caught.value.item
    for tiling in (Tiling(tile=72, overlap=8), Tiling(tile=64, overlap=6)):
        with pytest.raises(TileError, match="cannot take tiles"):
            walked(encoder, raster, tiling)
