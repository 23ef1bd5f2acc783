"""Budgets: met, spent where least is lost, and refused where nothing fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from routed_models import CONFIG, TWO, batch_of, last, made

from ringmoe import presets
from ringmoe.budget import Budget, Choice, keep_within, loss_of, reach, spend
from ringmoe.criteria import Router, to_keep
from ringmoe.errors import PruneError
from ringmoe.modality import Modality
from ringmoe.moe import Survivors
from ringmoe.prune import keep_experts, profile, slice_modalities, survivors_of_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def uneven():
    """One modality; in two of five blocks collaborative experts give next to nothing. And its profile."""
    model = slice_modalities(made(replace(CONFIG, depths=(1, 1, 2, 1))), (Modality.MS,))
    with torch.no_grad():
        for block, scale in zip(model.blocks(), (1.0, 0.02, 0.02, 1.0, 0.5), strict=True):
            block.experts.experts.w2_EHC[4:].mul_(scale)
    return model, profile(model, [batch_of(Modality.MS, count=4)])


def size(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_dynamic_budget_loses_less_than_equal_shares(uneven):
    """At the parameters of two collaborative experts in every block: by the profile, and by features of new chips."""
    model, usage = uneven
    equal = keep_experts(model, usage, collaborative=2, criterion="error")
    dynamic = keep_within(model, usage, Budget(size(equal), "params"))
    assert size(dynamic) <= size(equal)
    assert loss_of(usage, dynamic.config.survivors) < 0.7 * loss_of(usage, equal.config.survivors)
    batch = batch_of(Modality.MS, count=4, seed=5)
    want = last(model, batch)
    errors = [float((last(m, batch) - want).square().mean()) for m in (dynamic, equal)]
    assert errors[0] < 0.8 * errors[1]
    assert {len(s.collaborative) for s in dynamic.config.survivors} != {2}


def test_nothing_of_its_size_loses_less(uneven):
    """Against all ways to share out 1 to 4 experts over five blocks, at budgets all along the way."""
    model, usage = uneven
    sizes, losses = [], []
    full = survivors_of_blocks(model)
    best = [
        [replace(old, collaborative=to_keep(usage, Router(i, "collaborative"), n, "error")) for n in (1, 2, 3, 4)]
        for i, old in enumerate(full)
    ]
    one = [size(block.experts.experts) // 8 for block in model.blocks()]
    part = [[loss_of(usage, [*full[:i], s, *full[i + 1 :]]) for s in row] for i, row in enumerate(best)]
    for counts in product(range(4), repeat=5):
        sizes.append(size(model) - sum((3 - n) * o for n, o in zip(counts, one, strict=True)))
        losses.append(sum(part[i][n] for i, n in enumerate(counts)))
    least, greatest = reach(model, Budget(1, "params"))
    assert (least, greatest) == (min(sizes), max(sizes))
    for share in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.97):
        amount = least + share * (greatest - least)
        left = spend(model, usage, Budget(amount, "params"))
        optimum = min(loss for loss, params in zip(losses, sizes, strict=True) if params <= amount)
        assert loss_of(usage, left) == pytest.approx(optimum, abs=1e-12)
        assert presets.describe(replace(model.config, survivors=left), model.contract).parameters <= amount


@pytest.mark.parametrize("choice", [Choice(("specialized", "collaborative")), Choice(least=0, dropped="mean")])
@pytest.mark.parametrize("share", [0.95, 0.8])
def test_units_say_the_same_and_budgets_are_met(uneven, choice, share):
    """Parameters, their share, and bytes in half precision choose alike; what is left is what was said."""
    model, usage = uneven
    params = share * size(model)
    budgets = [Budget(params, "params"), Budget(share, "share"), Budget(2 * params, "bytes", torch.bfloat16)]
    found = [keep_within(model, usage, budget, choice) for budget in budgets]
    assert found[0].config == found[1].config == found[2].config
    assert size(found[0]) <= params
    largest = max(size(block.experts.experts) // 8 for block in model.blocks())
    assert size(found[0]) > params - largest
    assert 2 * size(found[0]) == budgets[2].spent(found[0].config, found[0].contract)


def test_a_budget_that_takes_all_changes_nothing_and_the_least_leaves_one(uneven):
    """The greatest that can be reached, more than that, and the least, exactly, in every unit."""
    model, usage = uneven
    for unit in ("params", "bytes", "share"):
        can = reach(model, Budget(1, unit))
        for amount in (can.greatest, 2 * can.greatest):
            assert list(spend(model, usage, Budget(amount, unit))) == survivors_of_blocks(model)
        left = spend(model, usage, Budget(can.least, unit))
        assert [len(s.collaborative) for s in left] == [1] * 5
        assert all(s.specialized == ((0, 1, 2, 3),) for s in left)


def test_flops_fall_only_where_a_kind_leaves_a_block(uneven):
    """With one expert left nothing is saved, and that is said; with none, kinds leave where least is lost."""
    model, usage = uneven
    whole = presets.describe(model.config, model.contract, 64).flops
    with pytest.raises(PruneError, match="FLOPs fall only where"):
        spend(model, usage, Budget(0.95 * whole, "flops", pixels=64))
    choice = Choice(least=0)
    can = reach(model, Budget(1, "flops", pixels=64), choice)
    budget = Budget((can.least + can.greatest) / 2, "flops", pixels=64)
    small = keep_within(model, usage, budget, choice)
    assert presets.describe(small.config, small.contract, 64).flops <= budget.amount
    assert {len(s.collaborative) for s in small.config.survivors} == {0, 4}
    assert [i for i, s in enumerate(small.config.survivors) if not s.collaborative][:2] == [1, 2]


def test_specialized_experts_of_several_modalities_share_a_budget():
    """What is saved is what the model is smaller by, routers that leave included; the modality in use keeps more."""
    model = slice_modalities(made(), TWO)
    usage = profile(model, [batch_of(TWO[0], count=4) | batch_of(TWO[1], count=1)])
    choice = Choice(("specialized",), least=0)
    small = keep_within(model, usage, Budget(0.7, "share"), choice)
    assert size(small) <= 0.7 * size(model)
    kept = [[len(s.specialized[m]) for s in small.config.survivors] for m in range(2)]
    assert sum(kept[0]) > sum(kept[1])
    none = keep_within(model, usage, Budget(reach(model, Budget(1, "share"), choice).least, "share"), choice)
    assert all(block.experts.specialized is None for block in none.blocks())
    before, after = (presets.describe(m.config, m.contract).parameters for m in (model, none))
    assert before - after == size(model) - size(none)


def test_what_cannot_be_met_is_refused(uneven):
    """Below the least, with what is possible; amounts and units that are none; a profile of another model."""
    model, usage = uneven
    least = reach(model, Budget(1, "params")).least
    with pytest.raises(PruneError, match="No choice of experts fits") as refused:
        keep_within(model, usage, Budget(least - 1, "params"))
    assert f"{least:,.6g}" in str(refused.value)
    with pytest.raises(PruneError, match="no budget"):
        Budget(0, "params")
    with pytest.raises(PruneError, match="no budget"):
        Budget(1, "acres")  # type: ignore[arg-type]
    with pytest.raises(PruneError, match="another model"):
        spend(keep_experts(model, usage, collaborative=1), usage, Budget(1.0, "share"))
    bare = keep_experts(model, usage, collaborative=0)
    assert reach(bare, Budget(1, "share")) == (1.0, 1.0)
    left = spend(bare, profile(bare, [batch_of(Modality.MS)]), Budget(1.0, "share"))
    assert left == (Survivors(((0, 1, 2, 3),), ()),) * 5
