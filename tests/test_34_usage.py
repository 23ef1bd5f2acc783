"""The profile: what every expert is worth, by values against layers pruned in truth; and its file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from routed_models import CONFIG, TWO, answer, batch_of, inputs_of, made
from scipy.spatial.distance import jensenshannon

from ringmoe.criteria import Router, lost, to_keep
from ringmoe.errors import PruneError
from ringmoe.modality import Modality
from ringmoe.prune import keep_experts, profile, slice_modalities, survivors_of_blocks, with_survivors, without
from ringmoe.usage import similarity, weights_digest
from ringmoe.usage_file import read_usage, write_usage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def profiled():
    """A model of two modalities with 4 + 4 experts, its profile, and the chips of it, three of one and one of other."""
    model = slice_modalities(made(), TWO)
    batch = batch_of(TWO[0], count=3) | batch_of(TWO[1], count=1)
    return model, profile(model, [batch]), batch


def pruned_at(model, usage, block, kept, dropped):
    """The model with one block's experts cut down."""
    left = survivors_of_blocks(model)
    left[block] = without(left[block], kept, dropped)
    return with_survivors(model, usage, left)


def true_loss(model, small, given, block):
    """Squared error of a layer's output over its squared norm, by modality; shares of the tokens."""
    whole_TC, less_TC = (answer(m.blocks()[block].experts, given) for m in (model, small))
    masks = [given[1].modality_T == m for m in range(len(model.modalities))]
    error = [float((less_TC - whole_TC)[m].square().sum() / whole_TC[m].square().sum()) for m in masks]
    return torch.tensor(error, dtype=torch.float64), torch.stack([m.double().mean() for m in masks])


def test_norms_and_energies_are_those_of_gated_outputs(profiled):
    """Of one expert of each kind, against its network applied to the tokens that the routing sent to it."""
    model, usage, batch = profiled
    for index, given in enumerate(inputs_of(model, batch)):
        layer = model.blocks()[index].experts
        with torch.no_grad():
            routing = layer(*given)[1]
        x_TC, modality_T = given[0], given[1].modality_T
        for kind, slot, row in (("specialized", 4 + 2, 1), ("collaborative", 8 + 2, 0)):
            routes, used = getattr(routing, kind), getattr(usage, kind)[index]
            mine_T = (routes.ids_T == 2) & (modality_T == row)
            stack = layer.experts
            slots_1T = torch.full((1, int(mine_T.sum())), slot)
            with torch.no_grad():
                y_TC = (stack(x_TC[mine_T], slots_1T)[0] * routes.gates_T[mine_T][:, None]).double()
            tokens = int((modality_T == row).sum())
            assert len(y_TC) > 0
            torch.testing.assert_close(used.norm_ME[row, 2], y_TC.norm(dim=-1).mean(), rtol=1e-5, atol=0)
            torch.testing.assert_close(used.energy_ME[row, 2], y_TC.square().sum() / tokens, rtol=1e-5, atol=0)
            torch.testing.assert_close(used.mean_MEC[row, 2], y_TC.sum(0) / tokens, rtol=0, atol=1e-6)


def test_the_error_of_an_expert_is_what_its_layer_loses_without_it(profiled):
    """Every expert of both kinds in two blocks, one by one, pruned in truth: tokens take the next best survivor."""
    model, usage, batch = profiled
    for block in (0, 3):
        given, full = inputs_of(model, batch)[block], survivors_of_blocks(model)[block]
        for gone in range(4):
            rest = tuple(e for e in range(4) if e != gone)
            for kind, row, kept in (
                ("collaborative", 0, replace(full, collaborative=rest)),
                ("specialized", 1, replace(full, specialized=(full.specialized[0], rest))),
            ):
                small = pruned_at(model, usage, block, kept, "survivor")
                error_M, share_M = true_loss(model, small, given, block)
                used = getattr(usage, kind)[block]
                rows = [row] if kind == "specialized" else [0, 1]
                torch.testing.assert_close(used.error_ME[rows, gone], error_M[rows], rtol=1e-4, atol=1e-9)
                told = lost(usage, Router(block, kind, row), (gone,))
                assert told == pytest.approx(float(share_M @ error_M), rel=1e-4)


@pytest.mark.parametrize("dropped", ["survivor", "mean"])
def test_what_several_experts_lose_together_is_told_exactly(profiled, dropped):
    """Sets of two, three and all of a kind; best survivors, or nothing and the mean of both modalities' tokens."""
    model, usage, batch = profiled
    given, full = inputs_of(model, batch)[2], survivors_of_blocks(model)[2]
    for left in ((1, 3), (2,), ()):
        gone = tuple(e for e in range(4) if e not in left)
        for kind, row, kept in (
            ("collaborative", 0, replace(full, collaborative=left)),
            ("specialized", 0, replace(full, specialized=(left, full.specialized[1]))),
        ):
            small = pruned_at(model, usage, 2, kept, dropped)
            error_M, share_M = true_loss(model, small, given, 2)
            told = lost(usage, Router(2, kind, row), gone, dropped=dropped)
            assert told == pytest.approx(float(share_M @ error_M), rel=1e-4)


def test_experts_kept_by_error_are_those_that_lose_least_together(profiled):
    """Against every pair, pruned in truth; and the pair kept by keep_experts is that one."""
    model, usage, batch = profiled
    given, full = inputs_of(model, batch)[0], survivors_of_blocks(model)[0]
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    found = {}
    for pair in pairs:
        small = pruned_at(model, usage, 0, replace(full, collaborative=pair), "survivor")
        error_M, share_M = true_loss(model, small, given, 0)
        found[pair] = float(share_M @ error_M)
    best = min(pairs, key=found.__getitem__)
    assert to_keep(usage, Router(0, "collaborative"), 2, "error") == best
    small = keep_experts(model, usage, collaborative=2, criterion="error")
    assert small.config.survivors[0].collaborative == best


def test_of_many_experts_single_errors_are_told_and_summed():
    """Eight experts a router: no sets; the error of one that goes is still exact."""
    model = slice_modalities(made(replace(CONFIG, collaborative=8, specialized=1)), TWO[:1])
    batch = batch_of(TWO[0])
    usage = profile(model, [batch])
    given, full = inputs_of(model, batch)[0], survivors_of_blocks(model)[0]
    assert usage.collaborative[0].sets_MA.shape == (1, 0)
    small = pruned_at(model, usage, 0, replace(full, collaborative=tuple(range(1, 8))), "survivor")
    error_M, _ = true_loss(model, small, given, 0)
    torch.testing.assert_close(usage.collaborative[0].error_ME[:, 0], error_M, rtol=1e-4, atol=1e-9)
    errors_E = usage.collaborative[0].error_ME[0]
    assert lost(usage, Router(0, "collaborative"), (2, 5)) == pytest.approx(float(errors_E[2] + errors_E[5]))
    kept = to_keep(usage, Router(0, "collaborative"), 3, "error")
    assert set(kept) == set(errors_E.argsort(descending=True)[:3].tolist())


def test_similarity_is_one_less_the_distance_of_jensen_and_shannon():
    """Against scipy's, block by block; 1 for a modality and itself; NaN where nothing was seen."""
    model = made()
    usage = profile(model, [batch_of(Modality.OPT, Modality.MS, Modality.SAR_L1)])
    alike_MM = similarity(usage)
    for a in range(3):
        for b in range(3):
            rows = [(used.usage_ME[a].numpy(), used.usage_ME[b].numpy()) for used in usage.collaborative]
            want = sum(1 - jensenshannon(p, q, base=2) for p, q in rows) / len(rows)
            assert float(alike_MM[a, b]) == pytest.approx(want, abs=1e-7)
    assert bool(alike_MM[3].isnan().all())
    assert bool(alike_MM[:, 3].isnan().all())
    table_ME = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.3, 0.7], [0.5, 0.5, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    apart = replace(usage, collaborative=tuple(u._replace(usage_ME=table_ME) for u in usage.collaborative))
    torch.testing.assert_close(
        similarity(apart)[:3, :3], (table_ME[:3, 0] > 0)[:, None].eq(table_ME[:3, 0] > 0).double()
    )


def test_a_profile_comes_back_from_its_file_and_equal_ones_give_equal_bytes(profiled, tmp_path):
    """Every table, what model it is of, and pruning by it."""
    model, usage, batch = profiled
    write_usage(tmp_path / "a", usage)
    again = read_usage(tmp_path / "a")
    write_usage(tmp_path / "b", profile(model, [batch]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for name in ("modalities", "config", "contract_digest", "weights_digest"):
        assert getattr(again, name) == getattr(usage, name)
    for kind in ("specialized", "collaborative", "layers"):
        for mine, want in zip(getattr(again, kind), getattr(usage, kind), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, want, strict=True))
    for mine, want in zip(again.units, usage.units, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.std + mine.mean, want.std + want.mean, strict=True))
    small = keep_experts(model, again, specialized=1, dropped="mean")
    without_any = keep_experts(small, profile(small, [batch]), collaborative=0)
    write_usage(tmp_path / "c", profile(without_any, [batch]))
    assert read_usage(tmp_path / "c").config == without_any.config
    assert read_usage(tmp_path / "c").collaborative == (None,) * 5


def test_a_damaged_profile_is_refused(profiled, tmp_path):
    """Missing, cut short, one bit changed, another file."""
    path = tmp_path / "profile"
    with pytest.raises(PruneError, match="cannot be read"):
        read_usage(path)
    write_usage(path, profiled[1])
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(PruneError, match="cannot be read"):
            read_usage(path)
    with pytest.raises(PruneError, match="cannot be written"):
        write_usage(tmp_path / "no" / "folder", profiled[1])


def test_a_profile_of_another_checkpoint_is_refused(profiled):
    """The same shape and contract, one weight another; and the same weights again are taken."""
    model, usage, _ = profiled
    other = slice_modalities(model, TWO)
    assert weights_digest(other.state_dict()) == usage.weights_digest
    usage.check(other)
    with torch.no_grad():
        other.stages[2][0].norm1.bias[3] += 1e-6
    with pytest.raises(PruneError, match="another checkpoint"):
        keep_experts(other, usage, collaborative=1)
