"""Targets beside the pixels: what random filters say of a unit, whitened, and views that know each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ringmoe import presets
from ringmoe.backbone import RingMoE
from ringmoe.latent import (
    FILTERS,
    SCALES,
    ViewTerm,
    Whitening,
    _over_shown,
    apart,
    lit,
    random_filters,
    texture,
    twice,
)
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import MaskedModelling, Objective, ObjectiveConfig

CONTRACT = presets.paper_contract()
OPTICAL = CONTRACT.inputs[Modality.OPT]


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def chips(count: int = 4, side: int = 64) -> Chips:
    pixels = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Chips(pixels, torch.ones(count, side, side, dtype=torch.bool))


def test_a_units_texture_is_its_own() -> None:
    """Beyond the filters' reach nothing of its neighbours counts; units with no-data are not whole."""
    one = chips()
    wanted, whole = texture(OPTICAL, one)
    assert wanted.shape == (4, 2 * FILTERS * SCALES, 2, 2)
    assert whole.all()
    other = Chips(one.pixels_BCHW.clone(), one.valid_BHW.clone())
    other.pixels_BCHW[:, :, :, 40:] = 7.0
    torch.testing.assert_close(texture(OPTICAL, other)[0][..., 0], wanted[..., 0])
    assert not torch.allclose(texture(OPTICAL, other)[0][..., 1], wanted[..., 1])
    one.valid_BHW[0, :8, :8] = False
    assert texture(OPTICAL, one)[1][0].tolist() == [[False, True], [True, True]]


def test_a_bands_filters_are_the_same_in_every_list() -> None:
    """Red alone and red among others: the same filter but for its scale."""
    red, *others = OPTICAL.bands
    alone, among = random_filters((red,)), random_filters((others[0], red))
    torch.testing.assert_close(alone[:, 0], among[:, 1] * 2**0.5)


def test_whitened_targets_have_one_variance_and_no_correlation() -> None:
    """Two directions of variances 100 and 1, turned by 30 degrees, come out alike; the mean variance is one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 2, generator=generator) * torch.tensor([10.0, 1.0]) + 5
    turn = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
    white = Whitening(2)(x @ turn, torch.ones(4000), plain)
    covariance = torch.cov(white.T)
    assert covariance.trace() / 2 == pytest.approx(1.0, rel=1e-2)
    assert abs(float(covariance[0, 1])) < 0.02
    assert 0.2 < float(covariance[0, 0] / covariance[1, 1]) < 5


def test_views_that_agree_cost_less_than_views_that_do_not() -> None:
    """Equal features for both views of an image: less than chance, ln 7; hidden places do not count."""
    torch.manual_seed(0)
    term = ViewTerm([8])
    maps = torch.randn(4, 8, 4, 4)
    shown = torch.ones(8, 2, 2, dtype=torch.bool)
    agreeing = term([torch.cat([maps, maps])], shown, plain)
    strangers = term([torch.cat([maps, maps.roll(1, 0)])], shown, plain)
    assert float(agreeing.detach()) < math.log(7) < float(strangers.detach())
    shown[:, 0] = False
    changed = torch.cat([maps, maps])
    changed[:, :, :2] = torch.randn(8, 8, 2, 4)
    torch.testing.assert_close(term([changed], shown, plain), term([torch.cat([maps, maps])], shown, plain))


def test_a_view_that_shows_nothing_is_asked_and_shown_to_nobody() -> None:
    """Of four pairs one has a view without a unit: the loss is that of the other three, whatever lies there."""
    torch.manual_seed(0)
    term, maps = ViewTerm([8]), torch.randn(8, 8, 4, 4)
    shown = torch.ones(8, 2, 2, dtype=torch.bool)
    shown[5] = False
    found = term([maps], shown, plain)
    maps[5] = 7.0
    torch.testing.assert_close(term([maps], shown, plain), found)
    maps[5], shown[:] = maps[1], True
    assert not torch.allclose(term([maps], shown, plain), found)
    assert float(term([maps], torch.zeros(8, 2, 2, dtype=torch.bool), plain).detach()) == 0.0


def test_views_are_told_apart_by_how_much_their_features_vary() -> None:
    """Means and deviations over what was shown alone; maps of equal means but unlike deviations are no fellows."""
    torch.manual_seed(0)
    maps, shown = torch.randn(4, 8, 4, 4), torch.tensor([[True, False], [True, True]])
    whole = shown.repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = _over_shown(maps, shown.expand(4, 2, 2))
    torch.testing.assert_close(found[:, :8], maps[:, :, whole].mean(2))
    torch.testing.assert_close(found[:, 8:], maps[:, :, whole].std(2, correction=0), rtol=1e-5, atol=1e-5)
    level = maps - maps.mean((2, 3), keepdim=True)
    spread = level * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(-1, 1, 1, 1)
    term, shown = ViewTerm([8]), torch.ones(8, 2, 2, dtype=torch.bool)
    fellows = float(term([torch.cat([spread, spread.flip(-1)])], shown, plain).detach())
    assert fellows < float(term([torch.cat([spread, spread.roll(1, 0)])], shown, plain).detach()) - 0.1


def test_a_view_of_which_one_token_is_shown_has_a_gradient() -> None:
    """Its deviation is 0, where a square root has none."""
    maps = torch.randn(4, 8, 1, 1, requires_grad=True)
    ViewTerm([8])([maps], torch.ones(4, 1, 1, dtype=torch.bool), plain).backward()
    assert maps.grad is not None
    assert bool(torch.isfinite(maps.grad).all())


def test_the_second_view_is_lit_otherwise_and_radar_is_not() -> None:
    """Band ratios stay; the same values of radar, some of them elsewhere."""
    torch.manual_seed(3)
    one = Chips(torch.rand(5, 3, 32, 32) + 0.1, torch.ones(5, 32, 32, dtype=torch.bool))
    both = lit(twice(one, Modality.MS), Modality.MS, 0.5)
    assert len(both) == 10
    assert torch.equal(both.pixels_BCHW[:5], one.pixels_BCHW)
    factor = both.pixels_BCHW[5:].flatten(2).mean(2) / one.pixels_BCHW.flatten(2).mean(2)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert float(factor.std()) > 0.05
    radar = lit(twice(one, Modality.SAR_L1), Modality.SAR_L1, 0.5).pixels_BCHW[5:]
    assert torch.equal(radar.flatten().sort().values, one.pixels_BCHW.flatten().sort().values)


def test_a_second_view_of_complex_radar_is_never_turned() -> None:
    """Of fifty draws none makes a column of a row; of detected radar some do."""
    torch.manual_seed(0)
    line = torch.zeros(1, 1, 32, 32)
    line[:, :, :, 3] = 1.0
    one = Chips(line, torch.ones(1, 32, 32, dtype=torch.bool))
    for modality, turned in ((Modality.SAR_L1, {False}), (Modality.SAR_L2, {False, True})):
        found = {bool(twice(one, modality).pixels_BCHW[1, 0].any(1).sum() == 1) for _ in range(50)}
        assert found == turned


def test_views_that_were_cut_are_compared_as_they_come() -> None:
    """A batch of four places, each twice, is not doubled: chance is ln 7; first views come before second ones."""
    torch.manual_seed(0)
    shape = replace(presets.nano(), dim=16, depths=(1, 1, 1, 1), specialized=2, collaborative=2)
    model = RingMoE(shape, CONTRACT.only([Modality.OPT]))
    one = chips()
    places = Chips(one.pixels_BCHW.repeat_interleave(2, 0), one.valid_BHW.repeat_interleave(2, 0))
    terms = {}
    for cut in (True, False):
        learner = MaskedModelling(Objective(model, ObjectiveConfig(views=1.0, cut=cut)), share=0.0)
        torch.manual_seed(1)
        terms[cut] = float(learner(model, {Modality.OPT: places})[1]["views/opt"])
    assert terms[True] < math.log(7) < terms[False]  # made of eight chips of which four are the others again
    assert torch.equal(lit(places, Modality.SAR_L2, 0.5).pixels_BCHW, places.pixels_BCHW)
    places = apart(places)
    assert torch.equal(places.pixels_BCHW, one.pixels_BCHW.repeat(2, 1, 1, 1))
    lighter = lit(places, Modality.OPT, 0.5).pixels_BCHW
    assert torch.equal(lighter[:4], one.pixels_BCHW)
    assert float((lighter[4:] / one.pixels_BCHW).flatten(1).std(1).max()) < 1e-5


@pytest.mark.parametrize("term", ["texture", "views"])
def test_one_argument_puts_a_term_in_and_leaves_it_out(term: str) -> None:
    """Named by term and modality, with a gradient into the model; without its weight there is neither term nor head."""
    torch.manual_seed(0)
    shape = replace(presets.nano(), dim=16, depths=(1, 1, 1, 1), specialized=2, collaborative=2)
    model = RingMoE(shape, CONTRACT.only([Modality.OPT]))
    without = Objective(model)
    assert getattr(without, term) is None
    loss, terms = MaskedModelling(Objective(model, ObjectiveConfig(**{term: 1.0})))(model, {Modality.OPT: chips()})
    assert f"{term}/opt" in terms
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert term not in {name.split("/")[0] for name in MaskedModelling(without)(model, {Modality.OPT: chips()})[1]}


def test_what_bfloat16_computes_is_whitened_in_float32() -> None:
    """Under autocast the term of texture is what it is without, to the precision of bfloat16."""
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        shape = replace(presets.nano(), dim=16, depths=(1, 1, 1, 1), specialized=2, collaborative=2)
        model = RingMoE(shape, CONTRACT.only([Modality.OPT]))
        learner = MaskedModelling(Objective(model, ObjectiveConfig(texture=1.0)))
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, terms = learner(model, {Modality.OPT: chips()})
        loss.backward()
        found.append(float(terms["texture/opt"]))
    assert found[1] == pytest.approx(found[0], rel=0.05)
