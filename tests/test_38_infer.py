"""A head maps chips, and the model maps a raster of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import BandSpec, DataContract, InputContract
from ringmoe.errors import ConfigError, TileError
from ringmoe.infer import Tiling, predict, reader
from ringmoe.modality import Chips, Modality
from ringmoe.tasks.segmentation import SegmentationConfig, Segmenter, balanced

CONTRACT = DataContract(
    {
        Modality.MS: InputContract(
            Modality.MS, "any", (BandSpec("a"), BandSpec("b")), "any", "1", "identity", (0.5,) * 2, (0.3,) * 2, (10, 10)
        )
    }
)
SMALL = RingMoEConfig(16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2)
CLASSES = ("water", "forest", "crops")


def segmenter(**options: object) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(RingMoE(SMALL, CONTRACT), SegmentationConfig(Modality.MS, CLASSES, **options)).eval()


def composite(height: int, width: int, hole: tuple[slice, slice] | None = None) -> xr.Dataset:
    values = np.random.default_rng(0).random((2, height, width)).astype(np.float32)
    if hole is not None:
        values[(slice(None), *hole)] = np.nan
    return xr.Dataset({"data": (("band", "y", "x"), values)})


class ByPixel:
    """A model whose answer depends on each pixel alone; counts the tiles that it sees."""

    training, n_classes = False, 3

    def __init__(self) -> None:
        self.tiles = 0

    def train(self, mode: bool) -> None:
        self.training = mode

    def __call__(self, chips: Chips) -> Tensor:
        self.tiles += len(chips)
        x = chips.pixels_BCHW.nan_to_num()
        return torch.stack([x[:, 0] * 4, x[:, 1] * 4, x.sum(1) * 2], dim=1)


def mapped(model: object, source: xr.Dataset, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(predict(model, reader(source), (source.sizes["y"], source.sizes["x"]), tiling))
    assert [b.y0 for b in blocks] == np.cumsum([0, *(len(b.classes) for b in blocks)])[:-1].tolist()
    return np.concatenate([b.classes for b in blocks]), np.concatenate([b.probabilities for b in blocks], axis=1)


def test_the_head_answers_every_pixel_and_is_small():
    """Logits come at the image's resolution, one per class; the head of the published width has under 0.5 M weights."""
    model = segmenter(width=32)
    chips = Chips(torch.rand(2, 2, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool))
    assert model(chips).shape == (2, 3, 64, 96)
    assert sum(p.numel() for p in model.head.parameters()) < 500_000


def test_the_loss_is_the_weighted_cross_entropy_over_known_pixels():
    """Pixels labelled 0 or without data take no part; weights enter as in torch's own cross entropy."""
    model = segmenter(class_weights=(1.0, 2.0, 0.5))
    valid = torch.rand(2, 32, 32) > 0.2
    chips = Chips(torch.rand(2, 2, 32, 32), valid)
    labels = torch.randint(0, 4, (2, 32, 32))
    loss, terms = model.loss(chips, labels)
    target = torch.where(valid, labels - 1, -1)
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = torch.nn.functional.cross_entropy(model(chips), target, weights, ignore_index=-1)
    torch.testing.assert_close(loss, expected)
    assert set(terms) == {"cross_entropy"}
    nothing, _ = model.loss(chips, torch.zeros_like(labels))
    assert float(nothing.detach()) == 0.0


def test_rare_classes_weigh_more():
    """Weights follow the power law of the counts, are capped, and are zero for a class that does not occur."""
    assert balanced([100, 100]) == pytest.approx((1.0, 1.0))
    assert balanced([400, 100], power=1.0) == pytest.approx((0.625, 2.5))
    assert balanced([10_000, 1, 0]) == pytest.approx(((5000.5 / 10_000) ** 0.5, 5.0, 0.0))


def test_a_head_that_fits_no_backbone_is_refused():
    """An unknown modality and a wrong number of weights are errors before anything is trained."""
    with pytest.raises(ConfigError, match="does not know"):
        Segmenter(RingMoE(SMALL, CONTRACT), SegmentationConfig(Modality.OPT, CLASSES))
    with pytest.raises(ConfigError, match="do not fit"):
        segmenter(class_weights=(1.0,))


@pytest.mark.parametrize("size", [(200, 150), (64, 64), (20, 33), (65, 300)])
def test_tiles_leave_no_trace_where_the_model_looks_at_single_pixels(size):
    """A model of single pixels gives tile by tile what it gives at once: classes equal, probabilities to 1e-6."""
    source = composite(*size)
    classes, probabilities = mapped(ByPixel(), source, Tiling(64, 16, 3))
    x = torch.from_numpy(source["data"].values)[None]
    whole = ByPixel()(Chips(x, torch.ones(1, *size, dtype=torch.bool)))[0].softmax(0).numpy()
    np.testing.assert_allclose(probabilities, whole, atol=1e-6)
    assert (classes == whole.argmax(0) + 1).mean() > 0.999
    np.testing.assert_allclose(probabilities.sum(0), 1.0, atol=1e-5)
    assert classes.dtype == np.uint8


def test_what_was_not_measured_is_class_0_and_never_reaches_the_model():
    """No-data is class 0 with NaN probability, pixel for pixel; a tile of nothing else is not computed."""
    source = composite(128, 128, hole=(slice(0, 64), slice(None)))
    model = ByPixel()
    classes, probabilities = mapped(model, source, Tiling(64, 0, 4))
    assert model.tiles == 2
    assert (classes[:64] == 0).all()
    assert (classes[64:] > 0).all()
    assert np.isnan(probabilities[:, :64]).all()
    assert np.isfinite(probabilities[:, 64:]).all()


def test_pixels_that_lack_a_band_are_mapped_from_the_others_where_bands_are_described():
    """The lower half lacks a band: mapped, by every class and of finite probabilities, by a spectral model; class 0
    with a fixed list of bands."""
    source = composite(64, 64)
    source["data"][0, 32:] = np.nan
    torch.manual_seed(0)
    bands = tuple(BandSpec(name, centre_nm=nm) for name, nm in (("a", 490.0), ("b", 842.0)))
    contract = DataContract({Modality.MS: replace(CONTRACT.inputs[Modality.MS], bands=bands)}, described=True)
    model = Segmenter(RingMoE(replace(SMALL, embedding="spectral"), contract), SegmentationConfig(Modality.MS, CLASSES))
    blocks = list(predict(model.eval(), reader(source, described=contract.described), (64, 64), Tiling(64, 0)))
    assert all((block.classes > 0).all() and np.isfinite(block.probabilities).all() for block in blocks)
    fixed, _ = mapped(segmenter(), source, Tiling(64, 0))
    assert (fixed[:32] > 0).all()
    assert not fixed[32:].any()


def test_the_same_raster_gives_the_same_bits_one_tile_at_a_time_or_many():
    """Twice the same map, to the last bit, with the real model; the batch of tiles changes rounding at most."""
    source, model = composite(100, 130, hole=(slice(10, 30), slice(90, 130))), segmenter()
    first, second = (mapped(model, source, Tiling(64, 16, 4)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    single = mapped(model, source, Tiling(64, 16, 1))
    np.testing.assert_allclose(single[1], first[1], atol=1e-4)
    assert (first[0][10:30, 90:] == 0).all()


def test_rows_come_while_later_rows_are_not_yet_read():
    """The first block is out before the last rows were read; a window is read once; progress is told."""
    source, read, told = composite(300, 64), [], []
    inner = reader(source)

    def counting(window):
        read.append(window)
        return inner(window)

    blocks = predict(
        ByPixel(), counting, (300, 64), Tiling(64, 16, 1), on_tile=lambda done, of: told.append((done, of))
    )
    assert next(blocks).y0 == 0
    assert len(read) == 1
    list(blocks)
    assert len(read) == len(set(read)) == 6
    assert told == [(i, 6) for i in range(1, 7)]


def test_tiles_the_model_cannot_take_are_refused():
    """A tile that is no multiple of 32 is an error that names one that is."""
    with pytest.raises(TileError, match="multiple of 32"):
        next(predict(ByPixel(), reader(composite(64, 64)), (64, 64), Tiling(100, 10)))
