"""Physics by closed forms, and the terms of the pre-training loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import LOG_FLOOR, DataContract
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import Objective, ObjectiveConfig
from ringmoe.physics import (
    SPECKLE_REACH,
    determinant_power,
    gamma_deviance,
    log_power,
    log_ratios,
    multilooked_eigenvalues,
    spectral_angle,
    total_power,
)
from ringmoe.targets import TermWeights, errors, guessed_bands, truth

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2))


pytestmark = pytest.mark.usefixtures("one_thread")


def test_power_and_determinant_survive_every_change_of_polarisation_basis():
    """Span and |det| of U^T S U equal those of S for a unitary U, exactly to rounding; HV need not equal VH."""
    generator = torch.Generator().manual_seed(0)
    s = torch.complex(*(torch.randn(7, 2, 2, dtype=torch.float64, generator=generator) for _ in range(2)))
    u = torch.linalg.qr(
        torch.complex(*(torch.randn(2, 2, dtype=torch.float64, generator=generator) for _ in range(2)))
    )[0]

    def parts(matrices):
        return torch.view_as_real(matrices.flatten(1)).flatten(1)[..., None, None]

    moved = u.t() @ s @ u
    torch.testing.assert_close(total_power(parts(moved)), total_power(parts(s)), rtol=1e-12, atol=0)
    torch.testing.assert_close(determinant_power(parts(moved)), determinant_power(parts(s)), rtol=1e-11, atol=0)
    torch.testing.assert_close(determinant_power(parts(s)).flatten(), torch.linalg.det(s).abs(), rtol=1e-12, atol=0)
    assert not torch.allclose(parts(moved), parts(s))


def test_the_likeliest_mean_of_speckle_is_the_mean_and_not_that_of_the_logarithms():
    """Over four-look intensities of mean 0.03 the deviance is least at ln 0.03; that of logarithms, lower."""
    torch.manual_seed(0)
    intensity = 0.03 * torch.distributions.Gamma(4.0, 4.0).sample((400_000,))
    guesses = torch.linspace(math.log(0.02), math.log(0.04), 201)
    deviances = torch.stack([gamma_deviance(intensity.log() - g, 4.0).mean() for g in guesses])
    absolute = torch.stack([(intensity.log() - g).abs().mean() for g in guesses])
    assert guesses[deviances.argmin()] == pytest.approx(math.log(0.03), abs=0.01)
    assert guesses[absolute.argmin()] < math.log(0.03) - 0.05
    assert deviances.min() == pytest.approx(4 * (math.log(4.0) - torch.digamma(torch.tensor(4.0)).item()), rel=0.01)


def test_gamma_deviance_is_the_gamma_likelihood_within_reach_of_speckle_and_a_line_beyond():
    """Against torch's Gamma density; slope and value are continuous at the edge."""
    mean, intensity = torch.tensor(2.0, dtype=torch.float64), torch.tensor([0.1, 2.0, 9.0], dtype=torch.float64)
    density = torch.distributions.Gamma(3.0, torch.tensor(3.0, dtype=torch.float64) / mean)
    least = -torch.distributions.Gamma(3.0, 3.0 / intensity).log_prob(intensity)
    wanted = -density.log_prob(intensity) - least
    torch.testing.assert_close(gamma_deviance((intensity / mean).log(), 3.0), wanted, rtol=1e-12, atol=1e-12)
    x = torch.tensor([SPECKLE_REACH - 1e-6, SPECKLE_REACH + 1e-6, 50.0], dtype=torch.float64, requires_grad=True)
    y = gamma_deviance(x)
    y.sum().backward()
    assert y[0].item() == pytest.approx(y[1].item(), abs=2e-5)
    assert x.grad[0].item() == pytest.approx(x.grad[1].item(), abs=1e-4)
    assert x.grad[2] == x.grad[1]


def test_log_ratios_know_band_ratios_and_nothing_of_illumination():
    """Half the light changes nothing; differences of channels are logarithms of ratios; darkness stays finite."""
    spectrum = torch.tensor([0.04, 0.08, 0.4], dtype=torch.float64).view(1, 3, 1, 1)
    ratios = log_ratios(spectrum)
    torch.testing.assert_close(log_ratios(0.5 * spectrum), ratios, rtol=1e-12, atol=0)
    assert (ratios[0, 2] - ratios[0, 0]).item() == pytest.approx(math.log(10))
    assert log_ratios(torch.tensor([-0.1, 0.0, 0.01]).view(1, 3, 1, 1)).abs().max() == 0


def test_spectral_angle_ignores_brightness_and_measures_right_angles():
    """0 for a scaled spectrum, pi/2 for an orthogonal one, exact for a hundred-thousandth of a radian."""
    a = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 2, 1, 1)
    near = torch.tensor([math.cos(1e-5), math.sin(1e-5)], dtype=torch.float64).view(1, 2, 1, 1)
    assert spectral_angle(a, 3 * a).item() == pytest.approx(0.0, abs=1e-15)
    assert spectral_angle(a, a.flip(1)).item() == pytest.approx(math.pi / 2)
    assert spectral_angle(a, near).item() == pytest.approx(1e-5, rel=1e-6)


def test_log_power_of_the_reference_is_zero_and_of_nothing_is_finite():
    """ln(P / P_ref) with a floor 60 dB below."""
    assert log_power(torch.tensor(2.0), 2.0).item() == pytest.approx(0.0, abs=1e-5)
    assert log_power(torch.tensor([0.0, -1.0])).tolist() == pytest.approx([math.log(1e-6)] * 2)


def test_targets_are_what_each_instrument_is_guessed_as():
    """Power and determinant for complex radar whatever its phase; logarithm for detected radar; 0 where unknown."""
    slc, on = replace(CONTRACT.inputs[Modality.SAR_L1], std=(0.5,) * 8), TermWeights()
    phase = torch.rand(1, 4, 4, 4) * 2 * math.pi
    parts = torch.stack([torch.cos(phase), torch.sin(phase)], 2).flatten(1, 2)
    chips = Chips(parts, torch.ones(1, 4, 4, dtype=torch.bool))
    guess, known = truth(slc, chips, on)
    torch.testing.assert_close(guess[:, :1], torch.full((1, 1, 4, 4), math.log(4.0 / 2.0)), rtol=0, atol=1e-5)
    torch.testing.assert_close(guess[:, 1:], log_power(determinant_power(parts), 2.0))
    assert known.all()
    assert guessed_bands(slc, on) == 2

    dual = replace(slc, bands=slc.bands[4:], mean=slc.mean[4:], std=slc.std[4:])
    guess, known = truth(dual, Chips(parts[:, 4:], chips.valid_BHW), on)
    assert guess[0, 0, 0, 0] == pytest.approx(math.log(2.0), abs=1e-5)
    assert known[:, 0].all()
    assert not known[:, 1].any()

    blind = TermWeights(power=0, linear_power=0, determinant=0)
    torch.testing.assert_close(truth(slc, chips, blind).values_BCHW, parts / 0.5)
    assert guessed_bands(slc, blind) == 8

    grd = replace(CONTRACT.inputs[Modality.SAR_L2], transform="log", mean=(-3.0,) * 3, std=(2.0,) * 3)
    power = torch.full((1, 3, 2, 2), 0.1)
    power[0, 1, 0, 0] = float("nan")
    guess, known = truth(grd, Chips(power, torch.ones(1, 2, 2, dtype=torch.bool)), on)
    assert guess[0, 0, 1, 1] == pytest.approx((math.log(0.1 + LOG_FLOOR) + 3) / 2)
    assert known[0, :, 0, 0].tolist() == [True, False, True]
    assert guess[0, 1, 0, 0] == 0


def test_the_determinant_is_known_in_any_order_of_the_polarisations():
    """HH, VV, HV, VH gives what HH, HV, VH, VV gives."""
    slc, on = CONTRACT.inputs[Modality.SAR_L1], TermWeights()
    torch.manual_seed(0)
    parts, valid = torch.randn(1, 8, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    order = [0, 1, 6, 7, 2, 3, 4, 5]
    other = replace(slc, bands=tuple(slc.bands[i] for i in order))
    torch.testing.assert_close(truth(other, Chips(parts[:, order], valid), on), truth(slc, Chips(parts, valid), on))


def test_eigenvalues_after_multilooking_survive_every_change_of_basis():
    """Those of numpy of each square's own covariance matrix, the same in any basis; their sum is its mean power."""
    generator = torch.Generator().manual_seed(4)
    s = torch.randn(1, 8, 8, 2, 2, dtype=torch.complex128, generator=generator)

    def parts(matrices):
        return torch.view_as_real(matrices.flatten(3)).flatten(3).movedim(-1, 1).contiguous()

    found = multilooked_eigenvalues(parts(s), 4)
    k = s[0, 4:, :4].reshape(-1, 4).numpy()
    wanted = np.linalg.eigvalsh(np.einsum("np,nq->pq", k, k.conj()) / 16)[::-1]
    np.testing.assert_allclose(found[0, :, 1, 0], wanted, rtol=1e-10)
    torch.testing.assert_close(found.sum(1)[0, 1, 0], total_power(parts(s))[0, 0, 4:, :4].mean())
    u = torch.linalg.qr(torch.randn(2, 2, dtype=torch.complex128, generator=generator))[0]
    torch.testing.assert_close(multilooked_eigenvalues(parts(u.T @ s @ u), 4), found, rtol=1e-10, atol=0)
    holed = parts(s)
    holed[0, 3, 0, 0] = float("nan")
    assert torch.isnan(multilooked_eigenvalues(holed, 4))[0, :, 0, 0].all()
    assert torch.isfinite(multilooked_eigenvalues(holed, 4)).sum() == 12
    with pytest.raises(ValueError, match="1 looks cannot tell 4 eigenvalues apart"):
        multilooked_eigenvalues(parts(s), 1)


def test_eigenvalues_are_guessed_when_they_are_asked_for():
    """Four channels more; a guess off by ln 2 costs ln 2 in each; without the weight there is no such term."""
    slc, on = CONTRACT.inputs[Modality.SAR_L1], TermWeights(eigenvalues=0.2)
    chips = Chips(torch.randn(2, 8, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool))
    chips.valid_BHW[0, 1, 1] = False
    wanted = truth(slc, chips, on)
    assert wanted.values_BCHW.shape[1] == guessed_bands(slc, on) == 6
    assert not wanted.known_BCHW[0, 2:, :4, :4].any()
    assert wanted.known_BCHW[0, 2:, 4:].all()
    found = errors(slc, wanted.values_BCHW + math.log(2.0), wanted, on)["eigenvalues"]
    assert found.weight == 0.2
    torch.testing.assert_close(found.values_BCHW, torch.full((2, 4, 8, 8), math.log(2.0)))
    assert "eigenvalues" not in errors(slc, wanted.values_BCHW, wanted, TermWeights())
    dual = replace(slc, bands=slc.bands[4:], mean=slc.mean[4:], std=slc.std[4:])
    wanted = truth(dual, Chips(chips.pixels_BCHW[:, 4:], chips.valid_BHW), on)
    assert wanted.known_BCHW[1].flatten(1).all(1).tolist() == [True, False, True, True, False, False]


def test_the_linear_term_of_a_wild_guess_is_finite():
    """e^90 is beyond float32: its error counts as the brightest, and pulls at nothing rather than with NaN."""
    slc, on = CONTRACT.inputs[Modality.SAR_L1], TermWeights()
    wanted = truth(slc, Chips(torch.randn(1, 8, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)), on)
    guess = torch.full((1, 2, 2, 2), 90.0, requires_grad=True)
    found = errors(slc, guess, wanted, on)["linear_power"].values_BCHW
    found.sum().backward()
    assert guess.grad is not None
    assert torch.isfinite(found).all()
    assert torch.isfinite(guess.grad).all()


def test_errors_of_every_term_by_hand():
    """A guess off by a known factor, for detected and complex radar and for spectra; a perfect guess costs nothing."""
    on = TermWeights()
    grd = replace(CONTRACT.inputs[Modality.SAR_L2], transform="log", mean=(-3.0,) * 3, std=(2.0,) * 3, looks=4.0)
    wanted = truth(grd, Chips(torch.full((1, 3, 2, 2), 0.1), torch.ones(1, 2, 2, dtype=torch.bool)), on)
    found = errors(grd, wanted.values_BCHW - 0.25, wanted, on)
    assert list(found) == ["speckle"]
    torch.testing.assert_close(found["speckle"].values_BCHW, torch.full((1, 3, 2, 2), 4 * (math.exp(0.5) - 1.5)))

    slc = CONTRACT.inputs[Modality.SAR_L1]
    wanted = truth(slc, Chips(torch.randn(1, 8, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)), on)
    found = errors(slc, wanted.values_BCHW + math.log(2.0), wanted, on)
    for name in ("power", "determinant"):
        torch.testing.assert_close(found[name].values_BCHW, torch.full((1, 1, 2, 2), math.log(2.0)))
    torch.testing.assert_close(found["linear_power"].values_BCHW, wanted.values_BCHW[:, :1].exp())

    ms = replace(CONTRACT.inputs[Modality.MS], mean=(0.2,) * 4, std=(0.1,) * 4)
    reflectance = torch.tensor([0.05, 0.1, 0.2, 0.4]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    wanted = truth(ms, Chips(reflectance, torch.ones(1, 2, 2, dtype=torch.bool)), on)
    darker = errors(ms, (0.5 * reflectance - 0.2) / 0.1, wanted, on)
    assert set(darker) == {"pixels", "angle", "ratio"}
    assert darker["pixels"].values_BCHW[0, 3, 0, 0] == pytest.approx(2.0)
    assert darker["angle"].values_BCHW.abs().max() < 1e-3
    assert darker["ratio"].values_BCHW.abs().max() < 1e-5
    same = errors(ms, wanted.values_BCHW.clone().requires_grad_(), wanted, on)
    total = sum(error.values_BCHW.sum() for error in same.values())
    assert total.item() == pytest.approx(0.0, abs=1e-5)


def test_a_term_is_ablated_by_one_argument():
    """Its name is gone, the others stay; without all of its physics a radar is guessed channel by channel."""
    torch.manual_seed(0)
    model = RingMoE(CONFIG, CONTRACT)
    batch = scene()
    everything = Objective(model)(model(batch, MASKS), batch, MASKS).values
    for name in ("angle/ms", "ratio/ms", "power/sar_l1", "linear_power/sar_l1", "determinant/sar_l1", "speckle/sar_l2"):
        term = name.split("/")[0]
        left = Objective(model, ObjectiveConfig(TermWeights(**{term: 0.0})))(model(batch, MASKS), batch, MASKS).values
        assert name in everything
        assert name not in left
        assert set(left) - {"pixels/sar_l2"} == set(everything) - {name}
    blind = ObjectiveConfig(TermWeights(power=0, linear_power=0, determinant=0, speckle=0, angle=0, ratio=0))
    names = set(Objective(model, blind)(model(batch, MASKS), batch, MASKS).values)
    assert {n for n in names if n.split("/")[0] not in ("balance", "z")} == {f"pixels/{m}" for m in Modality}


def scene(*, fill: float = 0.0) -> dict[Modality, Chips]:
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for modality in Modality:
        pixels = torch.randn(2, len(CONTRACT.inputs[modality].bands), 64, 64, generator=generator)
        valid = torch.ones(2, 64, 64, dtype=torch.bool)
        valid[:, :16], pixels[:, :, :16] = False, fill
        batch[modality] = Chips(pixels, valid)
    return batch


MASKS = {m: torch.tensor([[[True, False], [True, False]]] * 2) for m in Modality}


def test_only_masked_valid_pixels_count():
    """The loss is the mean absolute difference over them, whatever lies elsewhere."""
    torch.manual_seed(0)
    model = RingMoE(CONFIG, CONTRACT)
    objective, batch = Objective(model), scene(fill=float("nan"))
    features = model(batch, MASKS)
    terms = objective(features, batch, MASKS)
    guess = objective.decoders["opt"](features.pyramids[Modality.OPT][-1])
    by_hand = (guess - batch[Modality.OPT].pixels_BCHW)[:, :, 16:, :32].abs().mean()
    assert terms.values["pixels/opt"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    weights = {**vars(TermWeights()), "balance": 0.001, "z": 0.001}
    total = sum(weights[name.split("/")[0]] * value for name, value in terms.values.items())
    assert terms.total.item() == pytest.approx(total.item(), rel=1e-5)
    terms.total.backward()
    assert all(
        torch.isfinite(p.grad).all() for p in [*model.parameters(), *objective.parameters()] if p.grad is not None
    )


def test_balance_is_one_for_an_even_router_and_the_number_of_experts_for_a_collapsed_one():
    """N^2 mean(f p), on routes made by hand."""
    torch.manual_seed(0)
    model = RingMoE(CONFIG, CONTRACT)
    with torch.no_grad():
        for block in model.blocks():
            block.experts.collaborative.weight.zero_()
    batch = scene()
    even = Objective(model)(model(batch, MASKS), batch, MASKS).values["balance/collaborative"]
    assert even.item() == pytest.approx(1.0, abs=1e-4)
    features = model(batch, MASKS)
    collapsed = []
    for routing in features.routing:
        routes = routing.collaborative
        load = torch.zeros_like(routes.load_ME)
        load[:, 0] = routes.load_ME.sum(1)
        collapsed.append(routing._replace(collaborative=routes._replace(load_ME=load, mass_ME=load)))
    terms = Objective(model)(replace(features, routing=collapsed), batch, MASKS)
    assert terms.values["balance/collaborative"].item() == pytest.approx(4.0)


def test_nothing_valid_gives_a_zero_loss_not_nan():
    """A batch of pure no-data."""
    model = RingMoE(CONFIG, CONTRACT)
    batch = {Modality.MS: Chips(torch.full((1, 4, 64, 64), float("nan")), torch.zeros(1, 64, 64, dtype=torch.bool))}
    masks = {Modality.MS: MASKS[Modality.MS][:1]}
    terms = Objective(model)(model(batch, masks), batch, masks)
    terms.total.backward()
    assert terms.values["pixels/ms"].item() == 0
    assert math.isfinite(terms.total.item())


def test_the_loss_falls_and_the_router_learns_from_the_task_alone():
    """30 steps on one batch from the published start, without router terms; at step 0 branches have no gradient."""
    torch.manual_seed(0)
    contract = DataContract({m: CONTRACT.inputs[m] for m in (Modality.MS, Modality.SAR_L1)})
    model = RingMoE(replace(CONFIG, post_norm_init=0.0), contract)
    objective = Objective(model, ObjectiveConfig(balance=0.0, z=0.0))
    batch = {m: chips for m, chips in scene().items() if m in contract.inputs}
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=2e-3)
    losses, router, trunk = [], [], []
    for _ in range(30):
        optimiser.zero_grad()
        loss = objective(model(batch, MASKS), batch, MASKS).total
        loss.backward()
        layer = model.blocks()[0].experts
        router.append(layer.collaborative.weight.grad.norm().item())
        trunk.append(layer.shared[0].weight.grad.norm().item())
        optimiser.step()
        losses.append(loss.item())
    assert router[0] == trunk[0] == 0
    assert router[-1] / trunk[-1] > 1e-3
    assert losses[-1] < 0.9 * losses[0]
