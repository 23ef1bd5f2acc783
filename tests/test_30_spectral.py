"""The spectral embedding: bands are a set, each known by what it is, and all instruments share one encoder."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from catalog.sensors import CBERS_4A, LANDSAT, PLANETSCOPE, SENTINEL_1, SENTINEL_2, Sensor
from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.bake import bake
from ringmoe.contract import BandSpec, DataContract, InputContract
from ringmoe.errors import ConfigError, ContractError, InputError
from ringmoe.masking import mask_batch
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import Objective
from ringmoe.spectral import description

SHAPE = RingMoEConfig(
    dim=16,
    depths=(1, 1, 1, 1),
    heads=(1, 2, 2, 4),
    window=4,
    pretrain_windows=(4, 4, 4, 2),
    post_norm_init=1.0,
    embedding="spectral",
)


def specs(sensor: Sensor) -> tuple[BandSpec, ...]:
    return tuple(
        BandSpec(b.name, b.common_name, b.centre_nm, b.width_nm, b.frequency_ghz, b.polarisation) for b in sensor.bands
    )


def contract_of(sensor: Sensor, gsd_m: tuple[float, float]) -> InputContract:
    bands = specs(sensor)
    level = tuple(0.05 + 0.02 * i for i in range(len(bands)))
    quantity = next(iter(sensor.quantities.values()))
    return InputContract(
        Modality(sensor.modality), sensor.id, bands, quantity, "1", "identity", level, (0.1,) * len(bands), gsd_m
    )


def surface(sensor: Sensor, gsd_m: tuple[float, float]) -> InputContract:
    return replace(contract_of(sensor, gsd_m), quantity="surface_reflectance")


CONTRACT = DataContract(
    {
        Modality.OPT: surface(PLANETSCOPE, (3.0, 3.0)),
        Modality.MS: surface(SENTINEL_2, (10.0, 20.0)),
        Modality.SAR_L2: contract_of(SENTINEL_1, (10.0, 10.0)),
    },
    (surface(LANDSAT, (30.0, 30.0)),),
    described=True,
)
S2, L8, PLANET = specs(SENTINEL_2), specs(LANDSAT), specs(PLANETSCOPE)


pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(seed: int = 0, config: RingMoEConfig = SHAPE) -> RingMoE:
    torch.manual_seed(seed)
    return RingMoE(config, CONTRACT).double().eval()


def chips_of(bands: tuple[BandSpec, ...], gsd_m: float | None = None, *, side: int = 64, count: int = 2) -> Chips:
    """A smooth spectrum on every pixel, sampled at the bands: what one ground would give any optical instrument."""
    generator = torch.Generator().manual_seed(5)
    weight_B3HW = torch.rand(count, 3, side // 8, side // 8, generator=generator, dtype=torch.float64)
    weight_B3HW = weight_B3HW.repeat_interleave(8, 2).repeat_interleave(8, 3)
    octave_C = torch.tensor([math.log2((b.centre_nm or 1000.0) / 1000) for b in bands], dtype=torch.float64)
    curves_C3 = torch.stack([torch.ones_like(octave_C), octave_C, (2 * octave_C).cos()], 1)
    pixels_BCHW = 0.1 + 0.1 * torch.einsum("ck,bkhw->bchw", curves_C3, weight_B3HW)
    gsd_B = None if gsd_m is None else torch.full((count,), gsd_m)
    return Chips(pixels_BCHW, torch.ones(count, side, side, dtype=torch.bool), bands, gsd_B)


@torch.no_grad()
def pooled(model: RingMoE, chips: Chips, modality: Modality = Modality.MS) -> torch.Tensor:
    return torch.cat([m.mean((2, 3)) for m in model({modality: chips}).pyramids[modality]], 1)


def test_permuting_bands_with_their_wavelengths_changes_nothing():
    """Pixels and descriptions turned together; pixels turned alone change a lot."""
    model, chips = model_of(), chips_of(S2)
    order = torch.randperm(len(S2), generator=torch.Generator().manual_seed(0))
    turned = Chips(chips.pixels_BCHW[:, order], chips.valid_BHW, tuple(S2[i] for i in order))
    same, other = pooled(model, chips), pooled(model, Chips(chips.pixels_BCHW[:, order], chips.valid_BHW, S2))
    torch.testing.assert_close(pooled(model, turned), same, rtol=0, atol=1e-6)
    assert (other - same).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("bands", "modality", "gsd_m"),
    [
        (S2, Modality.MS, 10.0),
        (L8, Modality.MS, 30.0),
        (PLANET[:1] + PLANET[3:4] + PLANET[5:6] + PLANET[7:], Modality.OPT, 3.0),
        (specs(CBERS_4A), Modality.MS, 8.0),
        (specs(SENTINEL_1)[:1], Modality.SAR_L2, 10.0),
    ],
    ids=["sentinel-2", "landsat", "four of planetscope", "cbers-4a, never seen", "one polarisation"],
)
def test_all_instruments_share_one_embedding(bands, modality, gsd_m):
    """Thirteen bands, seven, four, a sensor outside the contract: one set of weights, finite features and gradients."""
    model = model_of()
    chips = chips_of(bands, gsd_m)
    found = model({modality: chips}).pyramids[modality]
    sum(level.square().mean() for level in found).backward()
    assert all(torch.isfinite(level).all() for level in found)
    assert model.embedding(modality) is model.embedding(Modality.MS)
    assert model.embedding(modality).weights.out.weight.grad.norm() > 0


def test_a_missing_band_is_simply_absent():
    """NaN in a band everywhere, and the band not there at all, are one and the same."""
    model, chips = model_of(), chips_of(S2)
    left = chips.pixels_BCHW.clone()
    left[:, 4] = float("nan")
    keep = [i for i in range(len(S2)) if i != 4]
    without = Chips(chips.pixels_BCHW[:, keep], chips.valid_BHW, tuple(S2[i] for i in keep))
    torch.testing.assert_close(
        pooled(model, Chips(left, chips.valid_BHW, S2)), pooled(model, without), rtol=0, atol=1e-9
    )
    assert (pooled(model, without) - pooled(model, chips)).abs().max() > 1e-4


def test_a_band_missing_in_some_pixels_neither_spreads_nor_hides_the_others():
    """Tokens of patches that have all bands keep their bits; the patch with a hole stays counted and changes."""
    model, chips = model_of(), chips_of(S2)
    holed = chips.pixels_BCHW.clone()
    holed[:, 3, 1, 2] = float("nan")
    embed, asked = model.embedding(Modality.MS), CONTRACT.inputs[Modality.MS]
    whole, other = (embed(Chips(p, chips.valid_BHW, S2), asked, None, 32) for p in (chips.pixels_BCHW, holed))
    assert other.counted_BHW.all()
    differs = (whole.tokens_BHWC != other.tokens_BHWC).any(-1)
    assert differs[:, 0, 0].all()
    assert differs.sum() == len(chips)


def test_tokens_have_one_scale_whatever_the_number_of_bands():
    """The sum over bands is a mean: before the norm, one band gives numbers like thirteen copies of it."""
    model = model_of()
    embed = model.embedding(Modality.MS)
    weight, _ = embed.generated(S2[:1] * 13)
    one, _ = embed.generated(S2[:1])
    torch.testing.assert_close(weight.mean(1), one[:, 0])
    single, many = chips_of(S2[:1]), chips_of(tuple(replace(S2[0], name=f"B01-{i}") for i in range(13)))
    torch.testing.assert_close(pooled(model, single), pooled(model, many), rtol=0, atol=1e-9)


def test_features_degrade_gracefully_as_bands_are_taken_away():
    """Mean cosine with the features of all 13 bands, over ten orders of taking bands away, falls step by step."""
    model, full = model_of(), chips_of(S2, 10.0)
    reference = pooled(model, full)
    kept = (12, 10, 7, 4, 2, 1)
    similar = np.zeros(len(kept))
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(S2))
        for i, count in enumerate(kept):
            rows = sorted(order[:count].tolist())
            part = Chips(full.pixels_BCHW[:, rows], full.valid_BHW, tuple(S2[r] for r in rows), full.gsd_B)
            similar[i] += torch.nn.functional.cosine_similarity(pooled(model, part), reference).mean().item() / 10
    print("cosine with all bands:", dict(zip(kept, similar.round(3).tolist(), strict=True)))
    assert similar[0] > 0.97
    assert (np.diff(similar) < 0).all()
    assert similar[3] > 0.7


def test_a_sensor_with_nearly_the_same_bands_gives_nearly_the_same_features():
    """Sentinel-2B's wavelengths, a few nm off, against an instrument of other wavelengths under the same names."""
    model = model_of()
    near = tuple(replace(b, centre_nm=b.centre_nm * 1.004) for b in S2)
    far = tuple(replace(b, centre_nm=b.centre_nm * 1.5) for b in S2)
    pixels = chips_of(S2)
    a, b, c = (pooled(model, Chips(pixels.pixels_BCHW, pixels.valid_BHW, bands)) for bands in (S2, near, far))
    assert (a - b).norm() < 0.1 * (a - c).norm()


def test_a_broad_band_is_the_mean_of_what_lies_within():
    """The description of a Gaussian response is the mean of its wavelengths' descriptions, drawn at random."""
    broad = BandSpec("nir", centre_nm=833.0, width_nm=106.0)
    octave = math.log2(0.833) + np.random.default_rng(0).normal(size=20_000) * 106.0 / 2.3548 / 833 / math.log(2)
    drawn = np.mean([description(BandSpec("x", centre_nm=1000 * 2**u)) for u in octave], axis=0)
    np.testing.assert_allclose(description(broad), drawn, atol=0.02)


def test_polarisation_part_and_frequency_tell_radar_bands_apart():
    """Every two of them differ; circular polarisation lies between H and V."""
    bands = [
        BandSpec("a", frequency_ghz=f, polarisation=p, part=part)
        for f in (1.257, 5.405, 9.65)
        for p in ("HH", "HV", "VH", "VV", "RH")
        for part in ("re", "im")
    ]
    rows = np.array([description(b) for b in bands])
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + 9 * np.eye(len(rows))
    assert apart.min() > 0.5


def test_the_ground_sampling_distance_is_an_input():
    """The same pixels at 10 and at 20 m are other features, each image by its own; none given is the contract's."""
    model, ten = model_of(), chips_of(S2, 10.0)
    twenty = chips_of(S2, 20.0)
    both = Chips(ten.pixels_BCHW, ten.valid_BHW, S2, torch.tensor([10.0, 20.0]))
    a, b, mixed = pooled(model, ten), pooled(model, twenty), pooled(model, both)
    assert (a - b).abs().max() > 1e-4
    torch.testing.assert_close(mixed, torch.stack([a[0], b[1]]), rtol=0, atol=1e-9)
    torch.testing.assert_close(pooled(model, chips_of(S2)), pooled(model, chips_of(S2, math.sqrt(200.0))))


@pytest.mark.parametrize("bands", [S2, L8, specs(CBERS_4A)], ids=["first sensor", "another", "never seen"])
def test_baking_gives_the_same_features_by_one_convolution(bands):
    """Also with pixels missing and units masked; the contract of what comes out is strict."""
    model, chips = model_of(), chips_of(bands, 12.0)
    chips.valid_BHW[0, :10, :30] = False
    wanted = replace(CONTRACT.input_of(Modality.MS, bands), gsd_m=(12.0, 12.0))
    baked = bake(model, {Modality.MS: wanted})
    masked = {Modality.MS: torch.tensor([[[True, False], [False, False]]] * 2)}
    a, b = (m({Modality.MS: chips}, masked).pyramids[Modality.MS] for m in (model, baked))
    for level, other in zip(a, b, strict=True):
        torch.testing.assert_close(level, other, rtol=0, atol=1e-10)
    assert baked.config.embedding == "fixed"
    assert not baked.contract.described
    assert bake(baked) is baked


def test_pretraining_guesses_bands_by_what_they_are():
    """One decoder serves two sensors in turn; the loss falls on both; a band that is not there is not scored."""
    torch.manual_seed(0)
    model = RingMoE(replace(SHAPE, post_norm_init=0.0), CONTRACT)
    objective = Objective(model)
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=3e-3)
    losses: dict[int, list[float]] = {len(S2): [], len(L8): []}
    for step in range(24):
        chips = chips_of(S2 if step % 2 else L8, 10.0)
        batch = {Modality.MS: Chips(chips.pixels_BCHW.float(), chips.valid_BHW, chips.bands, chips.gsd_B)}
        masks = mask_batch(batch, generator=torch.Generator().manual_seed(step))
        terms = objective(model(batch, masks), batch, masks)
        terms.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses[len(chips.bands)].append(terms.values["pixels/ms"].item())
    assert all(sum(each[-3:]) < 0.8 * sum(each[:3]) for each in losses.values())
    batch[Modality.MS].pixels_BCHW[:, 2] = float("nan")
    assert torch.isfinite(objective(model(batch, masks), batch, masks).total)


def test_bad_bands_are_refused_by_name():
    """Undescribed, too few, of another kind, a distance of zero, a contract that the fixed embedding cannot keep."""
    model, chips = model_of(), chips_of(S2)
    nameless = replace(S2[0], centre_nm=None)
    radar = BandSpec("VV", frequency_ghz=5.4, polarisation="VV")
    for bands in ((nameless, *S2[1:]), (radar, *S2[1:])):
        with pytest.raises(ContractError, match="does not know these bands") as caught:
            model({Modality.MS: Chips(chips.pixels_BCHW, chips.valid_BHW, bands)})
        assert caught.value.enough
        assert "wavelength" in caught.value.todo
    with pytest.raises(InputError, match="name 7 bands"):
        Chips(chips.pixels_BCHW, chips.valid_BHW, L8)
    with pytest.raises(InputError, match="above 0"):
        Chips(chips.pixels_BCHW, chips.valid_BHW, S2, torch.tensor([10.0, 0.0]))
    with pytest.raises(ConfigError, match="never seen"):
        RingMoE(replace(SHAPE, embedding="fixed"), CONTRACT)
    undescribed = replace(CONTRACT.inputs[Modality.MS], bands=(nameless, *S2[1:]))
    with pytest.raises(ConfigError, match="Nothing says what band B01 measures"):
        RingMoE(SHAPE, DataContract({Modality.MS: undescribed}))


def test_presets_are_spectral_but_for_the_papers():
    """nano to large know bands by what they are and say so in their size; the giant keeps its convolutions."""
    contract = presets.paper_contract()
    for preset in (presets.nano, presets.tiny, presets.small, presets.base, presets.large):
        config = preset()
        spectral, fixed = (
            presets.describe(replace(config, embedding=kind), contract).parameters for kind in ("spectral", "fixed")
        )
        assert config.embedding == "spectral"
        assert 0 < spectral - fixed < 0.02 * fixed
    assert presets.giant().embedding == "fixed"
