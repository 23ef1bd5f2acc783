"""Dense integration: what is folded in is what was measured, by values; the result is a plain Swin V2."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm_reference
import torch
from routed_models import CONFIG, CONTRACT, TWO, answer, batch_of, inputs_of, last, made

from ringmoe.backbone import RingMoE
from ringmoe.bake import bake
from ringmoe.errors import PruneError
from ringmoe.integrate import Part, compressed, folded, neurons, selected, side_by_side, weighted
from ringmoe.modality import Modality
from ringmoe.prune import integrate, profile, slice_modalities
from ringmoe.refit import refit
from ringmoe.usage import Network, networks

pytestmark = pytest.mark.usefixtures("one_thread")


def parts_of(*weights: float, dim: int = 16, hidden: int = 64) -> list[Part]:
    """Networks of random weights, in double precision."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        Part(
            Network(draw(dim, hidden), draw(hidden), draw(hidden, dim), draw(dim)),
            weight,
            draw(hidden),
            draw(hidden).abs(),
        )
        for weight in weights
    ]


def out(network: Network, x_TC: torch.Tensor) -> torch.Tensor:
    return network.hidden(x_TC) @ network.w2_HC + network.b2_C


def linear(network: Network, x_TC: torch.Tensor) -> torch.Tensor:
    """Without the activation: what an integration does to the matrices alone."""
    return (x_TC @ network.w1_CH + network.b1_H) @ network.w2_HC + network.b2_C


def test_all_neurons_side_by_side_are_the_weighted_sum():
    """Room for every unit: sum_p w_p E_p(x), activation and biases included."""
    parts, x_TC = parts_of(0.2, 1.0, 0.05), torch.randn(10, 16, dtype=torch.float64)
    want = sum(p.weight * out(p.network, x_TC) for p in parts)
    for network in (side_by_side([folded(p) for p in parts]), neurons(parts, 192), neurons(parts, 256)):
        torch.testing.assert_close(out(network, x_TC), want)


def test_neurons_left_out_leave_their_mean():
    """Units of no spread cost nothing: with the others kept, the sum is exact wherever those are at their means."""
    parts, x_TC = parts_of(0.5, 1.0), torch.randn(10, 16, dtype=torch.float64)
    parts[0].network.w1_CH.zero_()
    parts[0] = parts[0]._replace(
        mean_H=parts[0].network.hidden(x_TC[:1])[0], std_H=torch.zeros(64, dtype=torch.float64)
    )
    want = sum(p.weight * out(p.network, x_TC) for p in parts)
    torch.testing.assert_close(out(neurons(parts, 64), x_TC), want)


def test_compression_at_full_rank_keeps_every_product_and_folds_the_weights():
    """Without the activation, W2 U U^T W1 = W2 W1 as U spans what W1 reaches: two networks of rank C in 4C units."""
    parts, x_TC = parts_of(0.3, 1.0), torch.randn(10, 16, dtype=torch.float64)
    parts = [
        p._replace(network=p.network._replace(b1_H=torch.randn(16, dtype=torch.float64) @ p.network.w1_CH))
        for p in parts
    ]
    dense = compressed(parts, 64)
    want = sum(p.weight * linear(p.network, x_TC) for p in parts)
    torch.testing.assert_close(linear(dense, x_TC), want)
    assert int((dense.w1_CH.norm(dim=0) > 1e-9).sum()) == 32
    assert float(dense.w2_HC[32:].abs().max()) == 0


def test_compression_gives_the_best_of_each_rank_and_ranks_in_steps_of_eight():
    """Six networks in 4C units: what is kept of a first matrix are its largest singular values, 8 at a time."""
    weights = (0.05, 0.1, 0.2, 0.3, 0.4, 1.0)
    parts = parts_of(*weights)
    dense = compressed(parts, 64)
    values = [torch.linalg.svdvals(p.network.w1_CH) for p in parts]
    kept, start = [], 0
    for weight, part, singular in zip(weights, parts, values, strict=True):
        sizes = [float(dense.w1_CH[:, start : start + rank].square().sum()) for rank in (0, 8, 16)]
        fits = [i for i, rank in enumerate((0, 8, 16)) if abs(sizes[i] - float(singular[:rank].square().sum())) < 1e-9]
        rank = 8 * fits[-1]
        w2_RC = dense.w2_HC[start : start + rank]
        assert float(w2_RC.norm()) <= weight * float(part.network.w2_HC.norm()) + 1e-9
        kept.append(rank)
        start += rank
    assert kept[-1] == 16
    assert kept[0] == 0
    assert sum(kept) == 64


def test_compression_does_not_depend_on_the_order_of_hidden_units():
    """Singular vectors have no sign of their own; the network chosen is the same function all the same."""
    parts, x_TC = parts_of(0.3, 1.0), torch.randn(10, 16, dtype=torch.float64)
    order = torch.randperm(64)
    other = [
        p._replace(
            network=Network(p.network.w1_CH[:, order], p.network.b1_H[order], p.network.w2_HC[order], p.network.b2_C)
        )
        for p in parts
    ]
    torch.testing.assert_close(out(compressed(other, 64), x_TC), out(compressed(parts, 64), x_TC))


def test_the_network_selected_keeps_its_weight():
    """By value; what is narrower than asked is filled with units that give nothing."""
    parts, x_TC = parts_of(0.3, 0.7, 0.5), torch.randn(10, 16, dtype=torch.float64)
    dense = selected(parts, 80)
    torch.testing.assert_close(out(dense, x_TC), 0.7 * out(parts[1].network, x_TC))
    assert dense.w1_CH.shape == (16, 80)


def test_weights_are_usage_times_mean_gate_and_one_for_the_shared():
    """Against the routing of the very batch, two modalities of unequal numbers."""
    model = slice_modalities(made(), TWO)
    batch = batch_of(TWO[0], count=3) | batch_of(TWO[1], count=1)
    usage = profile(model, [batch])
    with torch.no_grad():
        routing = model(batch).routing
    for index, (block, routes) in enumerate(zip(model.blocks(), routing, strict=True)):
        parts = weighted(usage, index, networks(block.experts))
        tokens = len(routes.collaborative.ids_T)
        modality_T = torch.arange(2).repeat_interleave(torch.tensor([3 * tokens // 4, tokens // 4]))
        want = []
        for m in range(2):
            mine = modality_T == m
            want += [
                routes.specialized.gates_T[mine & (routes.specialized.ids_T == e)].sum() / tokens for e in range(4)
            ]
        want += [routes.collaborative.gates_T[routes.collaborative.ids_T == e].sum() / tokens for e in range(4)]
        torch.testing.assert_close(torch.tensor([p.weight for p in parts]), torch.tensor([*map(float, want), 1.0]))


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


def test_timm_takes_the_dense_model_whose_embedding_was_baked():
    """Pruned to one modality, integrated and baked: timm's Swin V2 loads the weights and gives the same features."""
    if not timm_reference.available():
        pytest.skip("timm is not installed")
    torch.manual_seed(0)
    config = replace(CONFIG, embedding="spectral")
    whole = RingMoE(config, replace(CONTRACT, described=True)).eval()
    model, batch = slice_modalities(whole, (Modality.MS,)), batch_of(Modality.MS)
    dense = bake(integrate(model, profile(model, [batch])))
    reference = timm_reference.twin(dense, 4, 64)
    x_BCHW = batch[Modality.MS].pixels_BCHW
    with torch.no_grad():
        theirs = reference.forward_features(x_BCHW).permute(0, 3, 1, 2)
        ours = dense(batch).pyramids[Modality.MS][-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_refitting_finds_the_second_matrix_there_was():
    """A dense parent, its second matrices spoilt, its biases moved: they come back; the model given is not touched."""
    parent = slice_modalities(made(replace(CONFIG, specialized=0, collaborative=0)), (Modality.MS,)).double()
    batches = [batch_of(Modality.MS, count=12, seed=seed) for seed in range(3)]
    spoilt = integrate(parent, profile(parent, batches[:1]), "ks")
    with torch.no_grad():
        for block in spoilt.blocks():
            block.experts.shared[2].weight.mul_(0.5)
            block.experts.shared[2].bias.add_(0.3)
    before = last(spoilt, batches[0])
    found = refit(spoilt, parent, batches)
    for mine, want in zip(found.blocks()[:2], parent.blocks()[:2], strict=True):
        for part in ("weight", "bias"):
            a, b = (getattr(m.experts.shared[2], part) for m in (mine, want))
            assert (a - b).norm() < 0.02 * b.norm()
    assert torch.equal(last(spoilt, batches[0]), before)


@pytest.mark.parametrize("method", ["neurons", "kc"])
def test_refitting_brings_the_layers_nearer_on_chips_it_has_not_seen(method):
    """Squared error of every layer's output given the parent's input, over its squared norm; never further away."""
    parent = slice_modalities(made(), (Modality.MS,))
    batches = [batch_of(Modality.MS, count=8, seed=seed) for seed in range(3)]
    dense = integrate(parent, profile(parent, batches), method)
    new = batch_of(Modality.MS, count=8, seed=9)
    errors = []
    for model in (dense, refit(dense, parent, batches)):
        pairs = zip(model.blocks(), parent.blocks(), inputs_of(parent, new), strict=True)
        answers = [(answer(mine.experts, given), answer(whole.experts, given)) for mine, whole, given in pairs]
        errors.append([float((a - b).square().sum() / b.square().sum()) for a, b in answers])
    assert sum(errors[1]) < 0.8 * sum(errors[0])
    assert all(after < 1.01 * before for before, after in zip(*errors, strict=True))


def test_what_cannot_be_refitted_is_refused():
    """Another shape, and nothing to fit to."""
    parent, batch = slice_modalities(made(), (Modality.MS,)), batch_of(Modality.MS)
    dense = integrate(parent, profile(parent, [batch]))
    with pytest.raises(PruneError, match="too little"):
        refit(dense, parent, [batch])
    with pytest.raises(PruneError, match="not one of the parent"):
        refit(parent, slice_modalities(made(replace(CONFIG, depths=(1, 1, 1, 1))), (Modality.MS,)), [batch])
