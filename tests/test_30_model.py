"""The backbone: attention, embedding, experts, masking; one claim a test."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ringmoe import moe, presets
from ringmoe.attention import WindowAttention
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import DataContract
from ringmoe.errors import ConfigError, InputError
from ringmoe.masking import mask_batch, random_units
from ringmoe.modality import Batch, Chips, Modality
from ringmoe.moe import Experts, Survivors
from ringmoe.objectives import Objective

CONTRACT = presets.paper_contract()
SMALL = RingMoEConfig(
    dim=16, depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2), post_norm_init=1.0
)


pytestmark = pytest.mark.usefixtures("one_thread")


def chips(modality: Modality, count: int, rows: int = 64, cols: int = 64, *, seed: int = 0) -> Chips:
    generator = torch.Generator().manual_seed(seed + 10 * list(Modality).index(modality))
    channels = len(CONTRACT.inputs[modality].bands)
    valid = torch.ones(count, rows, cols, dtype=torch.bool)
    return Chips(torch.randn(count, channels, rows, cols, generator=generator), valid)


def mixed() -> dict[Modality, Chips]:
    """Every modality with another number of images, two of them of other sizes."""
    sizes = {
        Modality.OPT: (2, 64, 64),
        Modality.MS: (3, 32, 96),
        Modality.SAR_L1: (1, 64, 64),
        Modality.SAR_L2: (2, 64, 32),
    }
    return {m: chips(m, *size) for m, size in sizes.items()}


def model_of(config: RingMoEConfig = SMALL, contract: DataContract = CONTRACT, *, seed: int = 0) -> RingMoE:
    """A model whose routers and biases are far from their flat start."""
    torch.manual_seed(seed)
    model = RingMoE(config, contract)
    for name, parameter in model.named_parameters():
        if "alized.weight" in name or "collaborative.weight" in name or "b1_EH" in name or "b2_EC" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def features(model: RingMoE, batch: Batch, modality: Modality) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(batch).pyramids[modality]


def test_pyramid_has_four_levels_of_doubling_width_at_strides_4_to_32():
    """Shapes of a mixed batch of unequal numbers and sizes."""
    found = model_of()(mixed()).pyramids
    for modality, batch in mixed().items():
        count, _, rows, cols = batch.pixels_BCHW.shape
        for level, width in enumerate((16, 32, 64, 128)):
            assert found[modality][level].shape == (count, width, rows // 4 // 2**level, cols // 4 // 2**level)


def test_a_modality_alone_gives_what_the_mixed_batch_gave_for_it():
    """No image sees another, whatever shares its batch; in double precision, where no route flips by rounding."""
    model = model_of().double()
    batch = {m: Chips(c.pixels_BCHW.double(), c.valid_BHW) for m, c in mixed().items()}
    for modality in batch:
        together, alone = features(model, batch, modality), features(model, {modality: batch[modality]}, modality)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_permuting_the_batch_permutes_the_output():
    """The order of images is no information."""
    model, batch = model_of(), {Modality.MS: chips(Modality.MS, 5)}
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = {Modality.MS: Chips(batch[Modality.MS].pixels_BCHW[order], batch[Modality.MS].valid_BHW[order])}
    for a, b in zip(features(model, batch, Modality.MS), features(model, turned, Modality.MS), strict=True):
        torch.testing.assert_close(a[order], b, rtol=0, atol=1e-5)


def test_two_runs_of_one_seed_give_one_loss_to_the_bit():
    """Fixed threads, fixed seed: the same weights after three steps."""

    def train() -> list[float]:
        torch.manual_seed(3)
        model = RingMoE(replace(SMALL, post_norm_init=0.0), CONTRACT)
        objective, generator, batch = Objective(model), torch.Generator().manual_seed(1), mixed()
        optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-3)
        losses = []
        for _ in range(3):
            masks = mask_batch(batch, generator=generator)
            loss = objective(model(batch, masks), batch, masks).total
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        return losses

    first = train()
    assert first == train()
    assert first[2] < first[0]


@pytest.mark.parametrize("widths", [(16, 64), (32, 128)])
def test_grouped_product_equals_the_loop_over_experts(widths, monkeypatch):
    """Values within 1e-6 and gradients within 1e-5, with experts that no token chose."""
    torch.manual_seed(0)
    experts = Experts(*widths, 7)
    torch.nn.init.normal_(experts.b1_EH)
    torch.nn.init.normal_(experts.b2_EC)
    x = torch.randn(50, widths[0], requires_grad=True)
    slots = torch.stack([torch.randint(0, 3, (50,)), torch.randint(4, 7, (50,))])
    cotangent = torch.randn(2, 50, widths[0])
    results = []
    for grouped in (True, False):
        monkeypatch.setattr(moe, "grouped_path", lambda *_, on=grouped: on)
        y = experts(x, slots)
        results.append([y, *torch.autograd.grad((y * cotangent).sum(), [x, *experts.parameters()])])
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0][2][3], torch.zeros(widths))


def test_every_expert_is_the_network_written_out():
    """gelu(x w1 + b1) w2 + b2 for each token's own expert, by a loop over tokens in double precision."""
    torch.manual_seed(1)
    experts = Experts(6, 10, 3).double()
    torch.nn.init.normal_(experts.b1_EH)
    x, slots = torch.randn(9, 6, dtype=torch.float64), torch.randint(0, 3, (1, 9))
    want = torch.stack(
        [
            torch.nn.functional.gelu(x[t] @ experts.w1_ECH[e] + experts.b1_EH[e]) @ experts.w2_EHC[e] + experts.b2_EC[e]
            for t, e in enumerate(slots[0].tolist())
        ]
    )
    torch.testing.assert_close(experts(x, slots)[0], want, rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    """In double precision, through experts, gates and routers at once."""
    torch.manual_seed(0)
    kept = Survivors(((0, 1),) * 2, (0, 1))
    layer = moe.RingMoELayer(4, 8, survivors=kept, specialized=2, collaborative=2, shared=1).double()
    groups = moe.TokenGroups(torch.tensor([0, 0, 1, 1, 1]), torch.ones(2, 5), ((0, 2), (1, 3)))
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, groups))[0]

    assert torch.autograd.gradcheck(call, (x, *values))


def test_the_gate_is_the_softmax_probability_and_carries_the_routers_gradient():
    """The router learns from the task's loss alone."""
    model = model_of()
    found = model(mixed())
    for routing in found.routing:
        for routes in routing:
            assert torch.equal(routes.gates_T, routes.scores_TE.max(-1).values)
            torch.testing.assert_close(routes.scores_TE.sum(-1), torch.ones(len(routes.ids_T)))
    found.pyramids[Modality.MS][-1].square().mul(torch.linspace(0, 1, 128).view(-1, 1, 1)).sum().backward()
    for block in model.blocks():
        assert block.experts.specialized.weight.grad[1].norm() > 0
        assert block.experts.collaborative.weight.grad.norm() > 0


def test_only_seen_tokens_count_in_the_load():
    """Masked units and all-no-data patches are left out; each kind of router counts the rest once."""
    model, batch = model_of(), {Modality.OPT: chips(Modality.OPT, 2)}
    batch[Modality.OPT].valid_BHW[0, :32] = False
    masked = torch.zeros(2, 2, 2, dtype=torch.bool)
    masked[1, 0, 0] = True
    routing = model(batch, {Modality.OPT: masked}).routing
    for block, tokens_of_a_unit in zip(routing, (64, 16, 16, 4, 1), strict=True):
        for routes in block:
            assert routes.load_ME[0].sum() == (2 + 3) * tokens_of_a_unit
            assert routes.load_ME[1:].sum() == 0


def test_no_data_never_spreads_and_its_content_does_not_matter():
    """NaN, infinity or any number under the mask give the same finite features; so does NaN marked valid."""
    model = model_of()
    results = []
    for fill, flagged in ((float("nan"), True), (float("inf"), True), (7.0, True), (float("nan"), False)):
        batch = {m: chips(m, 2) for m in Modality}
        for one in batch.values():
            one.pixels_BCHW[:, :, 10:40, 20:50] = fill
            if flagged:
                one.valid_BHW[:, 10:40, 20:50] = False
        results.append(model(batch).pyramids)
    for other in results:
        for modality, maps in other.items():
            for level, reference in zip(maps, results[0][modality], strict=True):
                assert torch.isfinite(level).all()
                assert torch.equal(level, reference)


def test_nothing_valid_at_all_still_gives_finite_features_and_gradients():
    """An image of pure no-data."""
    model, batch = model_of(), {Modality.SAR_L2: chips(Modality.SAR_L2, 1)}
    batch[Modality.SAR_L2].valid_BHW[:] = False
    sum(level.square().sum() for level in model(batch).pyramids[Modality.SAR_L2]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [(16, 16), (6, 6), (10, 12), (8, 4), (1, 1), (3, 20)])
def test_attention_takes_any_map_and_hides_padding(size):
    """Against attention written out token by token, with windows, shift and seams found by hand."""
    torch.manual_seed(0)
    for shifted in (False, True):
        attention = WindowAttention(8, 2, 4, 4, shifted=shifted).double()
        torch.nn.init.normal_(attention.q_bias)
        torch.nn.init.normal_(attention.v_bias)
        x = torch.randn(2, *size, 8, dtype=torch.float64)
        torch.testing.assert_close(attention(x), written_out(attention, x), rtol=0, atol=1e-10)


def written_out(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Cosine attention among tokens of one window, token by token."""
    _, rows, cols, dim = x.shape
    win = [min(attention.window, s) for s in (rows, cols)]
    shift = [w // 2 if attention.shifted and s > w else 0 for s, w in zip((rows, cols), win, strict=True)]
    bias = attention.position_bias((win[0], win[1]))
    depth = dim // attention.heads
    qkv = x @ attention.qkv.weight.t()
    q, k, v = qkv.chunk(3, -1)
    q, v = q + attention.q_bias, v + attention.v_bias
    out = torch.zeros_like(x)

    def place(r: int, c: int) -> tuple[int, int, int, int, int, int]:
        padded = [-(-s // w) * w for s, w in zip((rows, cols), win, strict=True)]
        r2, c2 = (r - shift[0]) % padded[0], (c - shift[1]) % padded[1]
        wrapped = (r < shift[0], c < shift[1])
        return r2 // win[0], c2 // win[1], int(wrapped[0]), int(wrapped[1]), r2 % win[0], c2 % win[1]

    cells = [(r, c) for r in range(rows) for c in range(cols)]
    for r, c in cells:
        here = place(r, c)
        mates = [(a, b) for a, b in cells if place(a, b)[:4] == here[:4]]
        for h in range(attention.heads):
            part = slice(h * depth, (h + 1) * depth)
            scale = attention.logit_scale[h, 0, 0].clamp(max=math.log(100)).exp()
            logits = []
            for a, b in mates:
                there = place(a, b)
                cosine = torch.nn.functional.cosine_similarity(q[:, r, c, part], k[:, a, b, part], dim=-1)
                logits.append(cosine * scale + bias[h, here[4] * win[1] + here[5], there[4] * win[1] + there[5]])
            weights = torch.stack(logits, -1).softmax(-1)
            out[:, r, c, part] = sum(weights[:, i, None] * v[:, a, b, part] for i, (a, b) in enumerate(mates))
    return attention.proj(out)


def test_logit_scale_is_clamped_at_one_hundred():
    """A scale learned beyond ln 100 acts as ln 100."""
    torch.manual_seed(0)
    attention, x = WindowAttention(8, 2, 4, 4, shifted=False), torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        attention.logit_scale.fill_(math.log(100))
        at_limit = attention(x)
        attention.logit_scale.fill_(9.0)
        assert torch.equal(attention(x), at_limit)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_masking_hides_the_share_asked_for_and_repeats_with_its_seed(share):
    """Over many images the mean share is exact within its deviation; never all, never none."""
    one, two = (random_units(4000, 2, 3, generator=torch.Generator().manual_seed(5), share=share) for _ in range(2))
    assert torch.equal(one, two)
    assert abs(one.float().mean() - share) < 0.01
    assert one.flatten(1).any(1).all()
    assert not one.flatten(1).all(1).any()
    assert not random_units(3, 1, 1, generator=torch.Generator().manual_seed(0)).any()


def test_what_is_masked_is_not_seen():
    """Changing pixels under a masked unit changes nothing."""
    model, masked = model_of(), {Modality.OPT: torch.tensor([[[True, False], [False, False]]])}
    batch, other = ({Modality.OPT: chips(Modality.OPT, 1)} for _ in range(2))
    other[Modality.OPT].pixels_BCHW[:, :, :32, :32] += 5
    with torch.no_grad():
        for a, b in zip(
            model(batch, masked).pyramids[Modality.OPT], model(other, masked).pyramids[Modality.OPT], strict=True
        ):
            assert torch.equal(a, b)


def test_bad_input_is_refused_by_name():
    """Size, channels, modality, mask, and an empty batch."""
    model = model_of(contract=CONTRACT.only([Modality.OPT]))
    good = chips(Modality.OPT, 1)
    cases = [
        ({Modality.OPT: chips(Modality.OPT, 1, 60, 64)}, None, "patches"),
        ({Modality.OPT: chips(Modality.MS, 1)}, None, "4 channels"),
        ({Modality.MS: chips(Modality.MS, 1)}, None, "not learned"),
        ({Modality.OPT: Chips(good.pixels_BCHW.int(), good.valid_BHW)}, None, "patches"),
        ({Modality.OPT: good}, {Modality.OPT: torch.zeros(1, 3, 3, dtype=torch.bool)}, "mask"),
        ({}, None, "empty"),
    ]
    for batch, masked, text in cases:
        with pytest.raises(InputError, match=text) as caught:
            model(batch, masked)
        assert caught.value.enough
        assert caught.value.todo
    with pytest.raises(ConfigError, match="No model"):
        replace(SMALL, heads=(3, 3, 3, 3))
    with pytest.raises(InputError, match="mask of a batch"):
        Chips(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 5, dtype=torch.bool))


def test_bfloat16_autocast_stays_near_float32():
    """Features within 5 % of their spread, routers in float32."""
    model, batch = model_of(replace(SMALL, dim=32)), {Modality.MS: chips(Modality.MS, 4)}
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch)
    assert rough.routing[0].specialized.scores_TE.dtype == torch.float32
    a, b = exact.pyramids[Modality.MS][0].float(), rough.pyramids[Modality.MS][0].float()
    assert (a - b).abs().mean() < 0.05 * a.std()


def test_the_giant_has_the_papers_size_at_every_step_of_pruning():
    """14.7 B at 21 experts a block (within 0.2 % of the public 14,746,084,388), then 6.53, 4.48, 2.43 and 1.06 B."""
    whole = presets.describe(presets.giant(), CONTRACT)
    assert whole.parameters == pytest.approx(14_746_084_388, rel=0.002)
    assert set(whole.slots) == {21}
    assert whole.activated == pytest.approx(2.43e9, rel=0.003)
    one = CONTRACT.only([Modality.MS])
    for slots, modal, common, billions in ((9, 4, 4, 6.53), (6, 4, 1, 4.48), (3, 1, 1, 2.43), (1, 0, 0, 1.06)):
        config = presets.pruned(presets.giant(), modalities=1, specialized=modal, collaborative=common)
        cost = presets.describe(config, one)
        assert set(cost.slots) == {slots}
        assert cost.parameters / 1e9 == pytest.approx(billions, rel=0.002)
    assert whole.flops == pytest.approx(0.633e12, rel=0.01)


def test_nano_trains_on_two_cores():
    """About 30 million parameters with 21 experts a block."""
    assert presets.describe(presets.nano(), CONTRACT, 64).parameters == pytest.approx(30e6, rel=0.03)
