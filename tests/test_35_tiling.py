"""Tiles cover a raster and their answers blend into one."""

from __future__ import annotations

import itertools

import pytest
import torch

from ringmoe.errors import TileError
from ringmoe.tiling import Blender, Strip, Window, blend_weights, plan

SHAPES = [(100, 70, 32, 8), (64, 64, 64, 32), (65, 33, 32, 0), (17, 200, 32, 16), (5, 7, 32, 16), (33, 96, 32, 1)]


def blended(values_KHW: torch.Tensor, tile: int, overlap: int, order: str = "plan") -> tuple[torch.Tensor, list[Strip]]:
    windows = plan(values_KHW.shape[1], values_KHW.shape[2], tile, overlap)
    blender = Blender(windows, values_KHW.shape[0], overlap)
    strips: list[Strip] = []
    for w in windows if order == "plan" else reversed(windows):
        strips += blender.add(w, values_KHW[:, w.y0 : w.y0 + w.h, w.x0 : w.x0 + w.w])
    return torch.cat([s.values_KHW for s in strips], dim=1), strips


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SHAPES)
def test_every_pixel_is_covered_and_no_window_leaves_the_raster(height, width, tile, overlap):
    """Every pixel lies in a window, no window sticks out, neighbours share at least the overlap."""
    seen = torch.zeros(height, width)
    windows = plan(height, width, tile, overlap)
    for w in windows:
        assert w.y0 >= 0
        assert w.x0 >= 0
        assert w.y0 + w.h <= height
        assert w.x0 + w.w <= width
        seen[w.y0 : w.y0 + w.h, w.x0 : w.x0 + w.w] += 1
    assert seen.min() >= 1
    columns = sorted({w.x0 for w in windows})
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(columns))


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SHAPES)
def test_a_blend_of_ones_is_ones(height, width, tile, overlap):
    """A blend of ones is ones, to the last bit, in rows that come once and in order."""
    out, strips = blended(torch.ones(2, height, width), tile, overlap)
    assert torch.equal(out, torch.ones(2, height, width))
    assert [s.y0 for s in strips] == sorted({s.y0 for s in strips})
    assert out.shape == (2, height, width)


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SHAPES)
def test_tiles_that_agree_blend_to_what_they_agree_on(height, width, tile, overlap):
    """A ramp cut into tiles and blended is the ramp."""
    ramp = (torch.arange(height)[:, None] * 2.0 + torch.arange(width)[None] * 3.0)[None]
    out, _ = blended(ramp, tile, overlap)
    torch.testing.assert_close(out, ramp, rtol=1e-6, atol=1e-6)


def test_the_order_of_arrival_does_not_matter():
    """Tiles blended backwards give the same bits as tiles blended in order."""
    values = torch.randn(3, 90, 70, generator=torch.Generator().manual_seed(1))
    forward, _ = blended(values, 32, 12)
    backward, _ = blended(values, 32, 12, order="reversed")
    assert torch.equal(forward, backward)


def test_tiles_that_disagree_meet_halfway():
    """In the middle of a regular overlap two tiles weigh the same; at its ends, the nearer one decides."""
    windows = plan(16, 48, 32, 16)
    blender = Blender(windows, 1, 16)
    rows = [*blender.add(windows[0], torch.zeros(1, 16, 32)), *blender.add(windows[1], torch.ones(1, 16, 32))]
    line = rows[-1].values_KHW[0, 8]
    assert line[15] == 0
    assert line[32] == 1
    assert line[23] + line[24] == pytest.approx(1.0, abs=1e-6)
    assert bool((line.diff() >= 0).all())


def test_weights_are_never_zero_and_sum_to_one_over_regular_overlaps():
    """Weights stay positive; ramps of neighbouring tiles sum to one."""
    w = blend_weights(32, 32, 8)
    assert w.min() > 0
    middle = w[16]
    torch.testing.assert_close(middle[:8] + middle[-8:], torch.ones(8), atol=1e-3, rtol=0)
    assert torch.equal(blend_weights(4, 4, 0), torch.ones(4, 4))


def test_memory_does_not_grow_with_the_raster():
    """The sums of a tall raster take no more room than those of a low one."""
    low, tall = (Blender(plan(h, 64, 32, 8), 2, 8) for h in (64, 6400))
    assert low._sums_KHW.shape == tall._sums_KHW.shape == (3, 32, 64)


def test_the_blender_refuses_a_window_twice_and_one_not_planned():
    """A window that is not expected is an error, not a quiet wrong number."""
    windows = plan(16, 48, 32, 16)
    blender = Blender(windows, 1, 16)
    list(blender.add(windows[0], torch.zeros(1, 16, 32)))
    with pytest.raises(TileError, match="does not expect"):
        list(blender.add(windows[0], torch.zeros(1, 16, 32)))
    with pytest.raises(TileError, match="does not expect"):
        list(blender.add(Window(1, 2, 16, 32), torch.zeros(1, 16, 32)))


@pytest.mark.parametrize("bad", [(0, 5, 8, 2), (5, 5, 8, 5), (5, 5, 0, 0), (5, 5, 8, -1)])
def test_a_plan_that_makes_no_sense_is_refused(bad):
    """Empty rasters and overlaps beyond half a tile are refused."""
    with pytest.raises(TileError):
        plan(*bad)
