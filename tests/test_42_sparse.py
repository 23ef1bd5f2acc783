"""Pre-training that computes visible tokens alone: what it leaves out changes nothing that it should not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ringmoe import presets
from ringmoe.attention import WindowAttention
from ringmoe.backbone import Features, RingMoE, RingMoEConfig
from ringmoe.decoders import Completion
from ringmoe.errors import InputError
from ringmoe.masking import mask_batch, random_units, units_of
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import MaskedModelling, Objective
from ringmoe.visible import Places, attend, cut_out

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(
    dim=16,
    depths=(2, 2, 2, 1),
    heads=(1, 2, 2, 4),
    window=12,
    pretrain_windows=(12, 12, 12, 6),
    specialized=2,
    collaborative=2,
    post_norm_init=1.0,
)
"""Windows of 12 tokens over units of 8, 4, 2 and 1: they align nowhere but at stage 2, and there not when shifted."""
SIZES = {
    Modality.OPT: (96, 224),
    Modality.MS: (192, 192),
    Modality.SAR_L1: (192, 192),
    Modality.SAR_L2: (32, 64),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(config: RingMoEConfig = CONFIG) -> RingMoE:
    torch.manual_seed(0)
    return RingMoE(config, CONTRACT).double()


def batch_of(images: int = 1, sizes: dict[Modality, tuple[int, int]] = SIZES) -> dict[Modality, Chips]:
    """Chips of several sizes, a tenth of their pixels invalid and a corner without data."""
    generator = torch.Generator().manual_seed(1)
    batch = {}
    for m, size in sizes.items():
        channels = len(CONTRACT.inputs[m].bands)
        pixels = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
        valid = torch.rand(images, *size, generator=generator) > 0.1
        valid[0, :20, :20] = False
        batch[m] = Chips(pixels, valid, gsd_B=torch.full((images,), 10.0))
    return batch


def masks_of(batch: dict[Modality, Chips]) -> dict[Modality, Tensor]:
    return mask_batch(batch, generator=torch.Generator().manual_seed(2))


def visible_of(masks: dict[Modality, Tensor]) -> dict[Modality, Tensor]:
    return {m: units_of(~mask) for m, mask in masks.items()}


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("embedding", ["fixed", "spectral"])
def test_where_nothing_is_masked_the_sparse_encoder_is_the_dense_one(embedding):
    """Pyramids, routes and gradients of a mixed batch of several sizes in double precision."""
    model, batch = model_of(replace(CONFIG, embedding=embedding)), batch_of()
    gradients = []
    features = model(batch), model(batch, visible=visible_of({Modality.MS: torch.zeros(1, 6, 6, dtype=torch.bool)}))
    for each in features:
        model.zero_grad()
        sum(maps[-1].square().mean() + maps[0].mean() for maps in each.pyramids.values()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    dense, sparse = features
    for m in batch:
        assert all(largest(a, b) < 1e-10 for a, b in zip(dense.pyramids[m], sparse.pyramids[m], strict=True))
    for a, b in zip(dense.routing, sparse.routing, strict=True):
        assert torch.equal(a.specialized.load_ME, b.specialized.load_ME)
        assert torch.equal(a.collaborative.load_ME, b.collaborative.load_ME)
    assert all(largest(a, b) < 1e-10 * max(1.0, float(a.abs().max())) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(24, 24), (20, 28)])
def test_sparse_attention_is_dense_attention_whose_hidden_keys_are_left_out(shifted, size):
    """Against a softmax over the visible tokens of each window alone, written out query by query."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 12, 12, shifted=shifted).double()
    torch.nn.init.normal_(attention.q_bias)
    x_BHWC = torch.randn(2, *size, 8, dtype=torch.float64)
    hidden_BHW = torch.rand(2, *size) < 0.6
    places = Places(2, *size, units_of(~hidden_BHW), torch.device("cpu"))
    with torch.no_grad():
        got_XC = attend(attention, x_BHWC.flatten(0, 2)[places.index_X], places)
        wanted_XC = torch.stack(
            [by_hand(attention, x_BHWC[b], ~hidden_BHW[b], int(r), int(c)) for b, r, c in (~hidden_BHW).nonzero()]
        )
    assert largest(got_XC, wanted_XC) < 1e-12


def by_hand(attention: WindowAttention, x_HWC: Tensor, seen_HW: Tensor, row: int, col: int) -> Tensor:
    """What one query gets: keys are the visible tokens of its window; a shift moves windows by half their side."""
    offset = attention.window // 2 if attention.shifted else 0
    place_HW2 = torch.stack(torch.meshgrid(*map(torch.arange, seen_HW.shape), indexing="ij"), -1)
    window_HW2 = (place_HW2 - offset).div(attention.window, rounding_mode="floor")
    keys_HW = seen_HW & (window_HW2 == window_HW2[row, col]).all(-1)
    within_HW2 = place_HW2 - offset - window_HW2 * attention.window
    slot_HW = within_HW2[..., 0] * attention.window + within_HW2[..., 1]
    bias_hNN = attention.position_bias((attention.window, attention.window))
    q_HWhD, k_HWhD, v_HWhD = attention.queries_keys_values(x_HWC).unflatten(-1, (3, attention.heads, -1)).unbind(-3)
    out = []
    for h in range(attention.heads):
        cosine_K = torch.nn.functional.cosine_similarity(q_HWhD[row, col, h], k_HWhD[keys_HW][:, h], dim=-1)
        logits_K = cosine_K * attention.logit_scale[h, 0, 0].exp() + bias_hNN[h, slot_HW[row, col], slot_HW[keys_HW]]
        out.append(logits_K.softmax(0) @ v_HWhD[keys_HW][:, h])
    return attention.proj(torch.cat(out))


def test_what_is_hidden_reaches_no_visible_feature():
    """Other pixels under hidden units, not finite ones either, change no bit; features there are 0."""
    model, batch = model_of(), batch_of(2)
    masks = masks_of(batch)
    other = {}
    for m, chips in batch.items():
        hidden_BHW = masks[m].repeat_interleave(32, 1).repeat_interleave(32, 2)
        other[m] = replace(chips, pixels_BCHW=chips.pixels_BCHW.masked_fill(hidden_BHW[:, None], float("inf")))
    with torch.no_grad():
        one, two = (model(each, visible=visible_of(masks)) for each in (batch, other))
    for m, mask_BHW in masks.items():
        for stage, (a_BCHW, b_BCHW) in enumerate(zip(one.pyramids[m], two.pyramids[m], strict=True)):
            assert torch.equal(a_BCHW, b_BCHW)
            hidden_BHW = mask_BHW.repeat_interleave(8 >> stage, 1).repeat_interleave(8 >> stage, 2)
            zero_BHW = (a_BCHW == 0).all(1)
            assert torch.equal(zero_BHW, hidden_BHW)


def test_experts_see_visible_tokens_alone_and_count_what_the_dense_encoder_counts():
    """Rows that pass the shared expert, stage by stage; load of every block, whose sum is that of the dense one."""
    model, batch = model_of(), batch_of(2)
    masks = masks_of(batch)
    rows: list[int] = []
    for block in model.blocks():
        block.experts.shared.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    with torch.no_grad():
        dense, sparse = model(batch, masks), model(batch, visible=visible_of(masks))
    units = sum(mask.numel() for mask in masks.values())
    visible = sum(int((~mask).sum()) for mask in masks.values())
    sides = [64, 64, 16, 16, 4, 4, 1]
    assert rows == [units * n for n in sides] + [visible * n for n in sides]
    for a, b in zip(dense.routing, sparse.routing, strict=True):
        for kind in ("specialized", "collaborative"):
            assert torch.equal(getattr(a, kind).load_ME.sum(1), getattr(b, kind).load_ME.sum(1))


def test_units_are_cut_where_they_stand():
    """Pixels and masks of each, with its image's ground sampling distance; tokens of a unit lie within it."""
    pixels = torch.arange(2 * 64 * 96.0).view(2, 1, 64, 96)
    chips = Chips(pixels, pixels[:, 0] > 100, gsd_B=torch.tensor([10.0, 30.0]))
    places = Places.of(chips, torch.tensor([2, 3, 10]))
    units = cut_out(chips, places)
    for i, (image, row, col) in enumerate([(0, 0, 2), (0, 1, 0), (1, 1, 1)]):
        window = (image, slice(32 * row, 32 * row + 32), slice(32 * col, 32 * col + 32))
        assert torch.equal(units.pixels_BCHW[i, 0], pixels[:, 0][window])
        assert torch.equal(units.valid_BHW[i], chips.valid_BHW[window])
    assert units.gsd_B.tolist() == [10.0, 10.0, 30.0]
    number_BHW = torch.arange(2 * 8 * 12).view(2, 8, 12)
    assert torch.equal(places.finer(4).index_X.view(3, 4, 4)[2], number_BHW[1, 4:8, 4:8])


def test_units_that_are_not_of_the_chips_are_refused():
    """Out of range, doubled, descending, or no numbers."""
    chips = batch_of()[Modality.MS]
    for units in ([36], [-1], [3, 3], [5, 2], [0.5]):
        with pytest.raises(InputError, match="no units of these chips") as caught:
            model_of()({Modality.MS: chips}, visible={Modality.MS: torch.tensor(units)})
        assert caught.value.todo


def test_completion_fills_hidden_units_from_visible_ones():
    """Hidden units of one image differ from each other by what stands around them, and hear of every visible unit."""
    torch.manual_seed(0)
    completion = Completion(CONFIG).double()
    mask = torch.tensor([[[True, False], [False, True]]])
    last = torch.randn(1, 128, 2, 2, dtype=torch.float64).masked_fill(mask[:, None], 0.0).requires_grad_()
    features = Features({Modality.OPT: (last,)}, [], (Modality.OPT,))
    done = completion(features, {Modality.OPT: mask}).pyramids[Modality.OPT][-1]
    assert largest(done[0, :, 0, 0], done[0, :, 1, 1]) > 1e-3
    done[0, :, 0, 0].square().sum().backward()
    assert (last.grad[0].abs().sum(0) > 0).tolist() == [[False, True], [True, False]]
    assert completion.mask_token.grad is not None


def test_the_number_of_hidden_units_of_a_batch_varies_by_one_at_most():
    """Whatever the seed, with the share asked for; images of a batch, too, differ by one at most."""
    counts = [
        random_units(8, 6, 6, generator=torch.Generator().manual_seed(seed)).flatten(1).sum(1) for seed in range(40)
    ]
    assert {int(c.sum()) for c in counts} <= {172, 173}
    assert {int(n) for c in counts for n in c} == {21, 22}


def test_sparse_pretraining_learns_what_visible_units_tell_of_hidden_ones():
    """Four images of one colour each: far below what the mean of all four would cost, so that it tells them apart."""
    torch.manual_seed(0)
    contract = CONTRACT.only([Modality.OPT])
    model = RingMoE(replace(CONFIG, depths=(1, 1, 1, 1), window=8, post_norm_init=0.0), contract)
    objective = MaskedModelling(Objective(model), sparse=True)
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-3)
    colour = torch.randn(4, 3, 1, 1)
    chips = Chips(colour.expand(-1, -1, 64, 64).contiguous(), torch.ones(4, 64, 64, dtype=torch.bool))
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        loss, terms = objective(model, {Modality.OPT: chips})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(terms["pixels/opt"]))
    blind = float((colour - colour.median(0).values).abs().mean())
    assert sum(losses[-5:]) / 5 < 0.25 * blind, (blind, losses)


@pytest.mark.parametrize("embedding", ["fixed", "spectral"])
@pytest.mark.parametrize("sparse", [False, True])
def test_images_of_one_unit_hide_nothing_and_cost_nothing(sparse, embedding):
    """The only unit is seen, so there is nothing to guess: terms are 0, not NaN."""
    model = model_of(replace(CONFIG, embedding=embedding)).float()
    batch = {
        m: Chips(torch.randn(1, len(entry.bands), 32, 32), torch.ones(1, 32, 32, dtype=torch.bool))
        for m, entry in CONTRACT.inputs.items()
    }
    loss, terms = MaskedModelling(Objective(model), sparse=sparse)(model, batch)
    loss.backward()
    assert {float(v) for name, v in terms.items() if name.split("/")[0] not in ("balance", "z")} == {0.0}


def test_dense_and_sparse_hide_the_same_units():
    """The masks of a step do not depend on the way of encoding."""
    model, seen = model_of().float(), []
    batch = {Modality.OPT: Chips(torch.randn(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool))}
    for sparse in (False, True):
        objective = Objective(model)
        objective.register_forward_pre_hook(lambda _, args: seen.append(args[2][Modality.OPT]))
        modelling = MaskedModelling(objective, sparse=sparse)
        torch.manual_seed(7)
        modelling(model, batch)
    assert torch.equal(*seen)
