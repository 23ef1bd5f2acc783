"""Pruning: what is kept answers as before, and what is folded in is what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from routed_models import CONFIG, CONTRACT, TWO, answer, batch_of, inputs_of, last, made

from ringmoe import checkpoint, presets, quantise
from ringmoe.backbone import RingMoE
from ringmoe.bake import bake
from ringmoe.budget import Budget, reach
from ringmoe.errors import ConfigError, PruneError
from ringmoe.modality import Modality
from ringmoe.moe import Survivors
from ringmoe.prune import (
    integrate,
    keep_collaborative,
    keep_experts,
    profile,
    slice_modalities,
    survivors_of_blocks,
    with_survivors,
)
from ringmoe.refit import refit

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_slice_of_some_modalities_gives_the_same_bits():
    """One and two of four, and a slice of a slice; the parent is not touched."""
    model = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for keep in ((Modality.MS,), TWO):
        small, batch = slice_modalities(model, keep), batch_of(*keep)
        assert small.modalities == keep
        assert torch.equal(last(small, batch), last(model, batch))
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    again = slice_modalities(slice_modalities(model, TWO), (Modality.SAR_L2,))
    batch = batch_of(Modality.SAR_L2)
    assert torch.equal(last(again, batch), last(model, batch))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_profile_counts_every_token_once_and_leaves_no_data_out():
    """Shares sum to one for modalities seen, gates are mean probabilities, tokens are those with a measured pixel."""
    model, batch = made(), batch_of(*TWO)
    batch[Modality.MS].valid_BHW[0, :32] = False
    usage = profile(model, [batch, batch])
    assert usage.tokens_M.tolist() == [0, 2 * 1.5 * 256, 0, 2 * 2 * 256]
    routing = model(batch).routing
    for block, modal, common in zip(routing, usage.specialized, usage.collaborative, strict=True):
        for used, routes in ((modal, block.specialized), (common, block.collaborative)):
            want = routes.load_ME[1] / routes.load_ME[1].sum()
            torch.testing.assert_close(used.usage_ME[1].float(), want)
            torch.testing.assert_close(used.usage_ME.sum(1), torch.tensor([0.0, 1, 0, 1], dtype=torch.float64))
            assert ((used.gate_ME >= 0) & (used.gate_ME <= 1)).all()
    assert not model.training


def test_pruning_no_expert_changes_nothing():
    """All four collaborative experts kept: the same bits and the same configuration."""
    model, batch = made(), batch_of(*Modality)
    same = keep_collaborative(model, profile(model, [batch]), keep=4)
    assert same.config == model.config
    assert torch.equal(last(same, batch), last(model, batch))


def test_the_paper_keeps_the_most_used_quarter():
    """One of four collaborative experts a block, the one chosen most; nine slots become six for one modality."""
    model, batch = slice_modalities(made(), (Modality.MS,)), batch_of(Modality.MS, count=4)
    usage = profile(model, [batch])
    small = keep_collaborative(model, usage)
    for survivors, used in zip(small.config.survivors, usage.collaborative, strict=True):
        assert survivors.collaborative == (int(used.usage_ME[0].argmax()),)
        assert survivors.slots == 5


def test_a_token_whose_expert_is_gone_takes_its_best_survivor_with_that_ones_own_probability():
    """The softmax stays whole: scores do not change, gates are those of survivors."""
    model, batch = made(), batch_of(Modality.MS)
    small = keep_experts(model, profile(model, [batch]), specialized=2, collaborative=1)
    with torch.no_grad():
        before, after = model(batch).routing[0], small(batch).routing[0]
    for kind in ("specialized", "collaborative"):
        left = getattr(small.config.survivors[0], kind)
        left = list(left[1] if kind == "specialized" else left)
        old, new = getattr(before, kind), getattr(after, kind)
        torch.testing.assert_close(new.scores_TE, old.scores_TE)
        best = old.scores_TE[:, left].max(-1)
        assert torch.equal(new.gates_T, best.values)
        assert torch.equal(new.ids_T, torch.tensor(left)[best.indices])


def test_survivors_keep_their_own_weights():
    """With specialized expert 2 alone left, every token gets expert 2's answer."""
    model, batch = made(), batch_of(Modality.SAR_L1)
    usage = profile(model, [batch])
    small = keep_experts(model, usage, specialized=1)
    expert = small.config.survivors[0].specialized[2][0]
    assert torch.equal(
        small.blocks()[0].experts.experts.w1_ECH[2], model.blocks()[0].experts.experts.w1_ECH[8 + expert]
    )
    none = keep_experts(model, usage, specialized=0, collaborative=0)
    assert none.blocks()[0].experts.experts is None
    assert torch.isfinite(last(none, batch)).all()


def test_nano_of_21_slots_gives_the_same_bits_with_9():
    """The preset's own shape, its spectral embedding and chips of 64 px; 4 + 4 + 1 experts are left a block."""
    torch.manual_seed(0)
    model = RingMoE(replace(presets.nano(), post_norm_init=1.0), replace(CONTRACT, described=True)).eval()
    small, batch = slice_modalities(model, (Modality.MS,)), batch_of(Modality.MS)
    assert torch.equal(last(small, batch), last(model, batch))
    slots = [presets.describe(m.config, m.contract).slots for m in (model, small)]
    assert slots == [(21,) * 8, (9,) * 8]


def test_means_left_in_the_bias_keep_the_mean_of_the_layers_output():
    """Two modalities, both kinds pruned, block by block on the profile's own tokens; survivors alone shift it."""
    model, batch = slice_modalities(made(), TWO), batch_of(*TWO, count=3)
    usage = profile(model, [batch])
    silent = keep_experts(model, usage, specialized=2, collaborative=1, criterion="norm", dropped="mean")
    routed = keep_experts(model, usage, specialized=2, collaborative=1, criterion="norm")
    for index, given in enumerate(inputs_of(model, batch)):
        want, kept, moved = (answer(m.blocks()[index].experts, given).mean(0) for m in (model, silent, routed))
        torch.testing.assert_close(kept, want, rtol=0, atol=1e-6)
        assert (moved - want).norm() > 1e3 * (kept - want).norm()


def test_a_token_whose_expert_is_silent_takes_nothing_and_all_others_what_they_took():
    """Gates are 0 or as before, chosen experts are as before, and outputs differ by one vector and what is gone."""
    model, batch = made(), batch_of(Modality.MS)
    usage = profile(model, [batch])
    small = keep_experts(model, usage, collaborative=2, dropped="mean")
    given = inputs_of(model, batch)[0]
    (_, before), (_, after) = (m.blocks()[0].experts(*given) for m in (model, small))
    kept = torch.tensor(small.config.survivors[0].collaborative)
    there_T = torch.isin(before.collaborative.ids_T, kept)
    assert 0 < there_T.sum() < len(there_T)
    assert torch.equal(after.collaborative.ids_T, before.collaborative.ids_T)
    assert torch.equal(after.collaborative.gates_T, before.collaborative.gates_T * there_T)
    same_TC = (answer(small.blocks()[0].experts, given) - answer(model.blocks()[0].experts, given))[there_T]
    torch.testing.assert_close(same_TC, same_TC[:1].expand_as(same_TC), rtol=0, atol=1e-6)
    assert same_TC[0].norm() > 1e-3


def test_silence_lasts_through_further_pruning_slicing_and_a_checkpoint(tmp_path):
    """Means after means keep the mean; the next best survivor is never a silent expert's; bits survive the file."""
    model, batch = slice_modalities(made(), TWO), batch_of(*TWO)
    once = keep_experts(model, profile(model, [batch]), specialized=3, collaborative=3, dropped="mean")
    usage = profile(once, [batch])
    twice = keep_experts(once, usage, specialized=1, collaborative=1, dropped="mean")
    for index, given in enumerate(inputs_of(once, batch)):
        want, kept = (answer(m.blocks()[index].experts, given).mean(0) for m in (once, twice))
        torch.testing.assert_close(kept, want, rtol=0, atol=1e-6)
    left = twice.config.survivors[0]
    assert len(left.silent_collaborative) == 3
    assert sorted((*left.collaborative, *left.silent_collaborative)) == [0, 1, 2, 3]
    routed = keep_experts(once, usage, specialized=1, collaborative=1)
    for old, new in zip(once.config.survivors, routed.config.survivors, strict=True):
        assert new.silent_collaborative == old.silent_collaborative
        assert new.silent_specialized == old.silent_specialized
    checkpoint.save(tmp_path, twice)
    again = checkpoint.load(tmp_path).model
    assert again.config == twice.config
    assert torch.equal(last(again, batch), last(twice, batch))
    one = batch_of(Modality.SAR_L2)
    assert torch.equal(last(slice_modalities(twice, (Modality.SAR_L2,)), one), last(twice, one))


def test_a_kind_that_leaves_as_a_whole_leaves_its_mean():
    """No router is left, and the mean output of the layer is what it was."""
    model, batch = slice_modalities(made(), TWO), batch_of(*TWO)
    small = keep_experts(model, profile(model, [batch]), collaborative=0, dropped="mean")
    given = inputs_of(model, batch)[0]
    assert small.blocks()[0].experts.collaborative is None
    want, kept = (answer(m.blocks()[0].experts, given).mean(0) for m in (model, small))
    torch.testing.assert_close(kept, want, rtol=0, atol=1e-6)


def test_a_share_of_a_router_that_is_empty_is_nothing():
    """One of two modalities has lost its specialized experts: half of the other's four are kept, and none of its."""
    model, batch = slice_modalities(made(), TWO), batch_of(*TWO)
    usage = profile(model, [batch])
    left = [replace(s, specialized=((), s.specialized[1])) for s in survivors_of_blocks(model)]
    one = with_survivors(model, usage, left)
    for criterion in ("usage", "error"):
        half = keep_experts(one, profile(one, [batch]), specialized=0.5, criterion=criterion)
        assert [tuple(map(len, s.specialized)) for s in half.config.survivors] == [(0, 2)] * 5


def test_int8_weights_are_refused_wherever_they_would_be_cut():
    """Slices, profiles, experts kept, dense networks, refitting, budgets and baking, each before it does anything."""
    model, batch = slice_modalities(made(), (Modality.MS,)), batch_of(Modality.MS)
    usage = profile(model, [batch])
    dense, small = integrate(model, usage), quantise.int8(model)
    for refused in (
        lambda: slice_modalities(small, [Modality.MS]),
        lambda: profile(small, [batch]),
        lambda: keep_experts(small, usage, collaborative=1),
        lambda: with_survivors(small, usage, survivors_of_blocks(model)),
        lambda: integrate(small, usage),
        lambda: refit(dense, small, [batch]),
        lambda: refit(quantise.int8(dense), model, [batch]),
        lambda: reach(small, Budget(1, "params")),
    ):
        with pytest.raises(PruneError, match="Quantised weights") as caught:
            refused()
        assert "in int8" in caught.value.item
        assert "quantise what comes of it" in caught.value.todo
    spectral = RingMoE(replace(CONFIG, embedding="spectral"), replace(CONTRACT.only([Modality.MS]), described=True))
    with pytest.raises(ConfigError, match="cannot be baked"):
        bake(quantise.int8(spectral))


def test_what_cannot_be_pruned_is_refused():
    """A modality the model has not, a profile of another model, too many experts, an unknown method, no data."""
    model, batch = slice_modalities(made(), TWO), batch_of(*TWO)
    usage = profile(model, [batch])
    with pytest.raises(PruneError, match="no sub-model of opt"):
        slice_modalities(model, [Modality.OPT])
    with pytest.raises(PruneError, match="another model"):
        integrate(keep_collaborative(model, usage), usage)
    with pytest.raises(PruneError, match="5 experts"):
        keep_collaborative(model, usage, keep=5)
    with pytest.raises(PruneError, match="no criterion"):
        keep_experts(model, usage, collaborative=1, criterion="luck")  # type: ignore[arg-type]
    with pytest.raises(PruneError, match="has not"):
        with_survivors(model, usage, [Survivors(((0,), (4,)), (0,))] * 5)
    one = keep_experts(model, usage, collaborative=1)
    assert survivors_of_blocks(one) == list(one.config.survivors)
    bare = slice_modalities(made(replace(CONFIG, shared=0)), TWO)
    with pytest.raises(PruneError, match="no shared expert"):
        keep_experts(bare, profile(bare, [batch]), collaborative=1, dropped="mean")
    with pytest.raises(PruneError, match="no method"):
        integrate(model, usage, "magic")  # type: ignore[arg-type]
    with pytest.raises(PruneError, match="no measured pixel"):
        profile(model, [])
