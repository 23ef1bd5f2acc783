"""Physics by closed forms, and the terms of the pre-training loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import LOG_FLOOR, DataContract
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import Objective, ObjectiveConfig, target
from ringmoe.physics import log_power, log_ratio, speckle_bias, spectral_angle, total_power

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_total_power_survives_every_change_of_polarisation_basis():
    """Span of U^T S U equals span of S for a unitary U, exactly to rounding."""
    generator = torch.Generator().manual_seed(0)
    s = torch.complex(*(torch.randn(7, 2, 2, dtype=torch.float64, generator=generator) for _ in range(2)))
    u = torch.linalg.qr(
        torch.complex(*(torch.randn(2, 2, dtype=torch.float64, generator=generator) for _ in range(2)))
    )[0]

    def span(matrices):
        return total_power(torch.view_as_real(matrices.flatten(1)).flatten(1)[..., None, None])

    torch.testing.assert_close(span(u.t() @ s @ u), span(s), rtol=1e-12, atol=0)


def test_speckle_bias_is_the_mean_logarithm_of_unit_gamma():
    """-0.5772 (2.5 dB) at one look, and Monte Carlo at four."""
    assert speckle_bias(1.0) == pytest.approx(-0.5772156649, abs=1e-9)
    torch.manual_seed(0)
    intensity = torch.distributions.Gamma(4.0, 4.0).sample((200_000,))
    assert intensity.log().mean() == pytest.approx(float(speckle_bias(4.0)), abs=0.004)


def test_log_ratio_of_unequal_looks_is_zero_where_nothing_changed():
    """A single-look and a sixteen-look image of one backscatter."""
    torch.manual_seed(0)
    a = 0.03 * torch.distributions.Gamma(1.0, 1.0).sample((200_000,))
    b = 0.03 * torch.distributions.Gamma(16.0, 16.0).sample((200_000,))
    assert log_ratio(a, b, 1.0, 16.0).mean() == pytest.approx(0.0, abs=0.01)


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
    """Power for complex radar whatever its phase; logarithm for detected radar; 0 where invalid."""
    slc = replace(CONTRACT.inputs[Modality.SAR_L1], std=(0.5,) * 8)
    phase = torch.rand(1, 4, 4, 4) * 2 * math.pi
    parts = torch.stack([torch.cos(phase), torch.sin(phase)], 2).flatten(1, 2)
    guess, valid = target(slc, Chips(parts, torch.ones(1, 4, 4, dtype=torch.bool)))
    torch.testing.assert_close(guess, torch.full((1, 1, 4, 4), math.log(4.0 / 2.0)), rtol=0, atol=1e-5)
    assert valid.all()

    grd = replace(CONTRACT.inputs[Modality.SAR_L2], transform="log", mean=(-3.0,) * 3, std=(2.0,) * 3)
    power = torch.full((1, 3, 2, 2), 0.1)
    power[0, 1, 0, 0] = float("nan")
    guess, known = target(grd, Chips(power, torch.ones(1, 2, 2, dtype=torch.bool)))
    assert guess[0, 0, 1, 1] == pytest.approx((math.log(0.1 + LOG_FLOOR) + 3) / 2)
    assert known[0, :, 0, 0].tolist() == [True, False, True]
    assert guess[0, 1, 0, 0] == 0


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
    weights = {"pixels": 1.0, "balance": 0.001, "z": 0.001}
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
