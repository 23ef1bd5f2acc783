"""The small public interface: a checkpoint to features of any pixels, frozen or fine-tuned, reproducible."""

from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import ringmoe
from ringmoe import checkpoint, presets
from ringmoe.backbone import RingMoE
from ringmoe.errors import CheckpointError, ContractError, InputError

RED, NIR = ringmoe.optical(665, 31), ringmoe.optical(833, 106)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of `nano` that takes any bands, shallow and with few experts."""
    torch.manual_seed(0)
    config = replace(presets.nano(), depths=(1, 1, 1, 1), specialized=1, collaborative=1, post_norm_init=1.0)
    contract = replace(presets.paper_contract(), described=True)
    path = tmp_path_factory.mktemp("encoder") / "checkpoint"
    checkpoint.save(path, RingMoE(config, contract))
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return ringmoe.load(folder).freeze()


def test_the_example_in_the_documentation_runs(folder, monkeypatch):
    """Word by word, beside a folder `checkpoint`."""
    monkeypatch.chdir(folder.parent)
    found = doctest.testmod(ringmoe)
    assert found.failed == 0
    assert found.attempted >= 8


def test_importing_the_package_alone_does_not_import_torch(root):
    """`import ringmoe` is free; torch comes with the first name asked for."""
    code = "import sys, ringmoe; assert 'torch' not in sys.modules; ringmoe.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = ringmoe.lode


def test_pooled_features_are_means_over_what_was_measured(encoder):
    """By hand on a half image of no data; NaN and a mask are one; nothing measured gives zeros."""
    pixels = torch.rand(1, 2, 64, 64)
    pixels[..., 32:] = float("nan")
    found = encoder(pixels, "ms", bands=[RED, NIR], gsd_m=10.0)
    by_hand = torch.cat([level[..., : level.shape[-1] // 2].mean((2, 3)) for level in found.pyramid], 1)
    torch.testing.assert_close(found.pooled, by_hand)
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[..., 32:] = False
    masked = encoder(pixels.nan_to_num(7.0), "ms", bands=[RED, NIR], gsd_m=[10.0], valid_BHW=valid)
    assert torch.equal(masked.pooled, found.pooled)
    nothing = encoder(torch.full((1, 2, 64, 64), float("nan")), "ms", bands=[RED, NIR])
    assert not nothing.pooled.any()


def test_freezing_stops_training_and_thawing_starts_it(encoder):
    """A frozen encoder gives features without a graph; thawed, every stage gets a gradient."""
    frozen = encoder(torch.rand(1, 2, 64, 64), "ms", bands=[RED, NIR])
    assert not frozen.pooled.requires_grad
    encoder.freeze(False)
    try:
        encoder(torch.rand(1, 2, 64, 64), "ms", bands=[RED, NIR]).pooled.square().sum().backward()
        assert encoder.training
        for stage in encoder.backbone.stages:
            assert stage[0].attention.qkv.weight.grad.norm() > 0
    finally:
        encoder.zero_grad()
        encoder.freeze()


def test_radar_and_the_contracts_own_bands_are_taken_too(encoder):
    """One polarisation of another radar; three optical channels without a word."""
    power = torch.rand(1, 1, 64, 64)
    l_band, c_band = (encoder(power, "sar_l2", bands=[ringmoe.radar(f, "HV")], gsd_m=25.0).pooled for f in (1.257, 5.4))
    assert (l_band - c_band).abs().max() > 1e-4
    assert encoder(torch.rand(1, 3, 64, 64), "opt").pooled.shape == (1, 480)


def test_deterministic_gives_equal_bits_and_gives_the_state_back():
    """Random numbers and a training step inside; outside, nothing has changed."""
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    drawn = []
    for _ in range(2):
        with ringmoe.deterministic(seed=3, threads=1):
            assert torch.are_deterministic_algorithms_enabled()
            drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_the_encoder_does_not_take_is_refused_in_four_parts(encoder, tmp_path):
    """Size, dimensions, modality, dtype, bands, distance, folder."""
    good = torch.rand(1, 2, 64, 64)
    cases = [
        (good[..., :60], "ms", {"bands": [RED, NIR]}, InputError, "cut into patches"),
        (good[0], "ms", {"bands": [RED, NIR]}, InputError, "no images"),
        (good, "thermal", {"bands": [RED, NIR]}, InputError, "no images"),
        (good.int(), "ms", {"bands": [RED, NIR]}, InputError, "cut into patches"),
        (good, "ms", {"bands": [RED]}, InputError, "name 1 bands"),
        (good, "ms", {"bands": [RED, ringmoe.radar(5.4, "VV")]}, ContractError, "does not know these bands"),
        (good, "ms", {"bands": [RED, ringmoe.optical(float("nan"), 1)]}, ContractError, "does not know these bands"),
        (good, "ms", {}, InputError, "have 2 channels"),
        (good, "ms", {"bands": [RED, NIR], "gsd_m": -10.0}, InputError, "above 0"),
        (good, "ms", {"bands": [RED, NIR], "gsd_m": [10.0, 10.0]}, InputError, "one an image"),
        (good, "ms", {"bands": [RED, NIR], "valid_BHW": torch.ones(1, 64, 64)}, InputError, "no mask"),
    ]
    for pixels, modality, options, kind, text in cases:
        with pytest.raises(kind, match=text) as caught:
            encoder(pixels, modality, **options)
        assert caught.value.item
        assert caught.value.enough
        assert caught.value.todo
    with pytest.raises(CheckpointError, match="damaged"):
        ringmoe.load(tmp_path)
