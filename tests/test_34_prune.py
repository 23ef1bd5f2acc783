"""Pruning: what is kept answers as before, and what is folded in is what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ringmoe import presets
from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.errors import PruneError
from ringmoe.modality import Chips, Modality
from ringmoe.prune import integrate, keep_collaborative, keep_experts, profile, slice_modalities

CONTRACT = presets.paper_contract()
CONFIG = RingMoEConfig(
    dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), window=4, pretrain_windows=(4, 4, 4, 2), post_norm_init=1.0
)
TWO = (Modality.MS, Modality.SAR_L2)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(config: RingMoEConfig = CONFIG) -> RingMoE:
    """A model whose experts differ and whose routers have opinions."""
    torch.manual_seed(0)
    model = RingMoE(config, CONTRACT).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.normal_(std=0.5 if "router" in name or "alized.weight" in name else 0.1)
    return model


def batch_of(*modalities: Modality, count: int = 2, seed: int = 0) -> dict[Modality, Chips]:
    generator = torch.Generator().manual_seed(seed)
    return {
        m: Chips(
            torch.randn(count, len(CONTRACT.inputs[m].bands), 64, 64, generator=generator),
            torch.ones(count, 64, 64, dtype=torch.bool),
        )
        for m in modalities
    }


def last(model: RingMoE, batch: dict[Modality, Chips]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([level.flatten() for maps in model(batch).pyramids.values() for level in maps])


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


@pytest.mark.parametrize("method", ["neurons", "kc", "ks", "ka"])
def test_integration_gives_one_dense_network_of_the_width_replaced(method):
    """One slot a block, hidden width 4C, finite features, the parent's class."""
    model, batch = slice_modalities(made(), (Modality.MS,)), batch_of(Modality.MS)
    dense = integrate(model, profile(model, [batch]), method)
    for block in dense.blocks():
        assert block.experts.experts is None
        assert block.experts.shared[0].weight.shape[0] == 4 * block.norm1.weight.numel()
    assert torch.isfinite(last(dense, batch)).all()


def test_integration_of_a_shared_expert_alone_is_exact():
    """Nothing to fold: neurons, selection and average give the same network; so does KC where ranks suffice."""
    model, batch = made(replace(CONFIG, specialized=0, collaborative=0)), batch_of(*TWO)
    usage = profile(model, [batch])
    for method in ("neurons", "ks", "ka"):
        torch.testing.assert_close(last(integrate(model, usage, method), batch), last(model, batch), rtol=0, atol=1e-5)


def test_identical_experts_are_integrated_exactly_by_average_with_their_weights_folded():
    """Every expert the same function f and gates 1/4 on average: the dense network is (1 + usage x gate) f."""
    model, batch = made(), batch_of(Modality.MS)
    with torch.no_grad():
        for block in model.blocks():
            layer = block.experts
            layer.specialized.weight.zero_()
            layer.collaborative.weight.zero_()
            layer.experts.w1_ECH.copy_(layer.shared[0].weight.t().expand_as(layer.experts.w1_ECH))
            layer.experts.b1_EH.copy_(layer.shared[0].bias.expand_as(layer.experts.b1_EH))
            layer.experts.w2_EHC.copy_(layer.shared[2].weight.t().expand_as(layer.experts.w2_EHC))
            layer.experts.b2_EC.copy_(layer.shared[2].bias.expand_as(layer.experts.b2_EC))
    dense = integrate(model, profile(model, [batch]), "ka")
    torch.testing.assert_close(last(dense, batch), last(model, batch), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        dense.blocks()[0].experts.shared[2].weight, 1.5 * model.blocks()[0].experts.shared[2].weight
    )


def test_choosing_neurons_keeps_more_of_the_function_than_compressing_or_averaging():
    """Relative error of the features against the model integrated, on data not profiled."""
    model = slice_modalities(made(), (Modality.MS,))
    usage = profile(model, [batch_of(Modality.MS, count=4)])
    batch = batch_of(Modality.MS, count=4, seed=1)
    want = last(model, batch)
    error = {
        m: ((last(integrate(model, usage, m), batch) - want).norm() / want.norm()).item()
        for m in ("neurons", "kc", "ka")
    }
    assert error["neurons"] < error["kc"]
    assert error["neurons"] < error["ka"]


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
    with pytest.raises(PruneError, match="no method"):
        integrate(model, usage, "magic")  # type: ignore[arg-type]
    with pytest.raises(PruneError, match="no measured pixel"):
        profile(model, [])
