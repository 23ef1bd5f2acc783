"""Routers: what they learn from, what counts in their load, and that nothing on the way waits for the host."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from router_gradient import gradient_ratio
from torch import nn

from ringmoe import dispatch, moe
from ringmoe.backbone import RingMoEConfig
from ringmoe.loop import parameter_groups
from ringmoe.moe import RingMoELayer, Survivors, TokenGroups
from ringmoe.presets import paper_contract

EACH = (0, 1, 2, 3)


pytestmark = pytest.mark.usefixtures("one_thread")


def layer_of(dim: int = 16, modalities: int = 2) -> RingMoELayer:
    """Routers far from their flat start."""
    torch.manual_seed(0)
    kept = Survivors((EACH,) * modalities, EACH)
    layer = RingMoELayer(dim, 4 * dim, survivors=kept, specialized=4, collaborative=4, shared=1)
    for router in (layer.specialized, layer.collaborative):
        nn.init.normal_(router.weight)
    return layer


def groups_of(tokens: tuple[int, ...], hidden: tuple[int, ...] = ()) -> TokenGroups:
    """So many tokens of each modality; the tokens at `hidden` are not counted."""
    modality_T = torch.arange(len(tokens)).repeat_interleave(torch.tensor(tokens))
    counted_MT = (modality_T == torch.arange(len(tokens))[:, None]).float()
    counted_MT[:, list(hidden)] = 0
    return TokenGroups(modality_T, counted_MT, tuple(enumerate(tokens)))


def test_the_tasks_loss_teaches_the_router_and_a_constant_gate_takes_that_away():
    """Router gradient over the encoder's, of the task alone, 50 steps after Swin V2's zero post-norms."""
    assert gradient_ratio(constant_gate=False) >= 1e-3
    assert gradient_ratio(constant_gate=True, steps=10) == 0.0


def test_at_swins_start_no_branch_has_a_gradient():
    """Post-norm weights are zero: whatever is inside a branch is multiplied by them."""
    assert gradient_ratio(constant_gate=False, steps=0) == 0.0


def test_load_mass_and_z_are_sums_over_counted_tokens_alone():
    """By value, against softmaxes written out; what is hidden still gets an expert, and a gate."""
    layer, groups = layer_of(), groups_of((5, 3), hidden=(0, 6))
    x = torch.randn(8, 16)
    _, routing = layer(x, groups)
    seen = {0: [1, 2, 3, 4], 1: [5, 7]}
    for routes, router in ((routing.specialized, layer.specialized), (routing.collaborative, layer.collaborative)):
        assert bool((routes.gates_T > 0).all())
        for m, tokens in seen.items():
            logits = x[tokens] @ router.weight[m if len(router.weight) > 1 else 0].t()
            load = torch.bincount(logits.argmax(-1), minlength=4).float()
            assert torch.equal(routes.load_ME[m], load)
            torch.testing.assert_close(routes.mass_ME[m], logits.softmax(-1).sum(0))
            torch.testing.assert_close(routes.z_M[m], logits.logsumexp(-1).square().sum())


def test_the_load_carries_no_gradient_and_the_mass_does():
    """The balance loss moves the router through its probabilities."""
    _, routing = layer_of()(torch.randn(8, 16), groups_of((5, 3)))
    assert not routing.specialized.load_ME.requires_grad
    assert routing.specialized.mass_ME.requires_grad


def test_routers_stay_in_float32_under_autocast_and_in_double_where_all_is_double():
    """Scores in float32 whatever the products run in."""
    layer, groups, x = layer_of(), groups_of((5, 3)), torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer(x.bfloat16(), groups)
    assert y.dtype == torch.bfloat16
    assert routing.specialized.scores_TE.dtype == torch.float32
    assert layer.double()(x.double(), groups)[1].collaborative.scores_TE.dtype == torch.float64


def test_every_token_is_answered_however_lopsided_the_load():
    """Dropless: all tokens to one expert, each gets gate times that expert's answer."""
    layer, groups, x = layer_of(), groups_of((6, 2)), torch.rand(8, 16)
    with torch.no_grad():
        layer.collaborative.weight.zero_()[0, 2] = 1.0
    _, routing = layer(x, groups)
    assert routing.collaborative.load_ME.sum(0).tolist() == [0, 0, 8, 0]
    experts, slot = layer.experts, 8 + 2
    hidden = nn.functional.gelu(x @ experts.w1_ECH[slot] + experts.b1_EH[slot])
    want = hidden @ experts.w2_EHC[slot] + experts.b2_EC[slot]
    got = experts(x, torch.full((1, 8), slot))[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_nothing_on_the_way_of_an_accelerator_reads_a_value_back(monkeypatch):
    """On the meta device there is no value to read: forward and backward of the grouped path run without any."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device has none
    monkeypatch.setattr(moe, "compute_dtype", lambda x: x.dtype)
    layer = layer_of(32).to(device="meta", dtype=torch.bfloat16)
    for router in (layer.specialized, layer.collaborative):
        router.alive_RE, router.slot_RE = router.alive_RE.to("meta"), router.slot_RE.to("meta")
    assert moe.grouped_path(torch.device("meta"), torch.bfloat16, 32, 128)
    groups = groups_of((24, 8))
    groups = TokenGroups(groups.modality_T.to("meta"), groups.counted_MT.to("meta"), groups.runs)
    x = torch.empty(32, 32, device="meta", dtype=torch.bfloat16, requires_grad=True)
    y, routing = layer(x, groups)
    loss = y.float().square().sum() + routing.specialized.mass_ME.sum() + routing.collaborative.z_M.sum()
    loss.backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    ("device", "dtype", "dim", "taken"),
    [
        ("cuda", torch.bfloat16, 448, True),
        ("cuda", torch.float32, 448, False),
        ("cuda", torch.float64, 448, False),
        ("cuda", torch.bfloat16, 12, False),
        ("cpu", torch.bfloat16, 448, False),
        ("cpu", torch.float32, 448, False),
    ],
)
def test_the_path_is_a_fixed_function_of_device_dtype_and_width(device, dtype, dim, taken):
    """The table of measurements, written down."""
    assert moe.grouped_path(torch.device(device), dtype, dim, 4 * dim) is taken


def test_weights_cast_expert_by_expert_give_the_gradients_of_casting_them_all():
    """Under autocast the stack stays float32, and so do its gradients; experts nobody chose get zeros."""
    torch.manual_seed(0)
    experts, x = moe.Experts(16, 64, 5), torch.randn(40, 16)
    slots = torch.tensor([0, 1, 3, 4])[torch.randint(0, 4, (2, 40))]
    nn.init.normal_(experts.b1_EH)
    with torch.autocast("cpu", torch.bfloat16):
        y = experts(x, slots)
    y.float().square().sum().backward()
    cast = moe.Experts(16, 64, 5).bfloat16()
    cast.load_state_dict(experts.state_dict())
    cast(x.bfloat16(), slots).float().square().sum().backward()
    for mine, theirs in zip(experts.parameters(), cast.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad.bfloat16(), theirs.grad, rtol=0, atol=0)
        assert not mine.grad[2].any()


def test_padded_rows_reach_no_answer_and_no_gradient():
    """In bfloat16 experts run on more rows than they have; values are those of each token's expert by itself."""
    torch.manual_seed(0)
    experts, counts = moe.Experts(16, 64, 4).bfloat16(), (1, 9, 37)
    slots = torch.cat([torch.full((n,), e) for e, n in enumerate(counts)])[torch.randperm(sum(counts))][None]
    x = torch.randn(sum(counts), 16).bfloat16().requires_grad_()
    experts(x, slots).float().square().sum().backward()
    whole = [p.detach().double().requires_grad_() for p in (x, *experts.parameters())]
    names = [name for name, _ in experts.named_parameters()]
    w = dict(zip(names, whole[1:], strict=True))
    hidden = (whole[0][:, None] @ w["w1_ECH"][slots[0]])[:, 0] + w["b1_EH"][slots[0]]
    y = (nn.functional.gelu(hidden)[:, None] @ w["w2_EHC"][slots[0]])[:, 0] + w["b2_EC"][slots[0]]
    y.square().sum().backward()
    for mine, exact in zip((x, *experts.parameters()), whole, strict=True):
        assert (mine.grad.double() - exact.grad).norm() < 0.02 * exact.grad.norm()


def test_products_run_on_few_sizes_and_little_more_rows():
    """Eight sizes an octave in bfloat16, from eight rows on never an eighth more; other dtypes run as they are."""
    sizes = {rows: dispatch.padded(rows, torch.bfloat16) for rows in range(64, 4096)}
    assert all(rows <= size < rows * 9 / 8 for rows, size in sizes.items())
    assert len({size for size in sizes.values() if 64 <= size < 4096}) == 8 * 6
    assert dispatch.padded(101, torch.float32) == 101


def test_norms_biases_scales_position_nets_and_routers_do_not_decay():
    """Every parameter of a model by name, in the group it belongs to."""
    from ringmoe.backbone import RingMoE

    config = RingMoEConfig(dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=4, pretrain_windows=(4, 4, 4, 2))
    model = RingMoE(config, paper_contract())
    decayed, spared = (
        {id(p) for group in parameter_groups(model, 0.05) for p in group["params"] if group["weight_decay"] == rate}
        for rate in (0.05, 0.0)
    )
    never = ("bias", "norm", "logit_scale", "bias_net", "specialized.weight", "collaborative.weight", "b1_EH", "b2_EC")
    always = ("qkv.weight", "w1_ECH", "w2_EHC", "shared.0.weight", "reduction.weight", "attention.proj.weight")
    names = dict(model.named_parameters())
    assert len(decayed) + len(spared) == len(names)
    for name, parameter in names.items():
        if any(part in name for part in never):
            assert id(parameter) in spared, name
        elif name.endswith(always):
            assert id(parameter) in decayed, name
