"""The loop learns, repeats itself to the last bit, and stops when there is nothing to learn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from ringmoe.backbone import RingMoE, RingMoEConfig
from ringmoe.contract import BandSpec, DataContract, InputContract
from ringmoe.errors import TrainingError
from ringmoe.history import Step
from ringmoe.modality import Chips, Modality
from ringmoe.objectives import MaskedModelling, Objective
from ringmoe.tasks.segmentation import SegmentationConfig, Segmenter
from ringmoe.train import TrainConfig, adapt, distil, fit, pretrain

CONTRACT = DataContract(
    {
        m: InputContract(
            m, "any", tuple(BandSpec(f"b{i}") for i in range(n)), "any", "1", t, (0.0,) * n, (1.0,) * n, (10, 10)
        )
        for m, n, t in ((Modality.MS, 4, "identity"), (Modality.SAR_L2, 2, "log"))
    }
)
SMALL = RingMoEConfig(16, (1, 1, 1, 1), (1, 1, 2, 2), 4, (4, 4, 4, 2), specialized=2, collaborative=2)


def chips(step: int, batch: int = 4, bands: int = 4, side: int = 64) -> Chips:
    generator = torch.Generator().manual_seed(step)
    coarse = torch.rand(batch, bands, side // 8, side // 8, generator=generator) + 0.1
    pixels = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return Chips(pixels, torch.ones(batch, side, side, dtype=torch.bool))


def mixed(start: int = 0) -> Iterator[dict[Modality, Chips]]:
    while True:
        yield {Modality.MS: chips(start), Modality.SAR_L2: chips(start + 1000, 2, 2)}
        start += 1


def labelled(start: int = 0) -> Iterator[tuple[Chips, Tensor]]:
    while True:
        sample = chips(start)
        labels = (sample.pixels_BCHW[:, 0] > sample.pixels_BCHW[:, 1]).long() + 1
        labels[:, :4] = 0
        yield sample, labels
        start += 1


def model(seed: int = 0) -> RingMoE:
    torch.manual_seed(seed)
    return RingMoE(SMALL, CONTRACT)


def test_the_rate_warms_up_and_follows_a_cosine():
    """Linear to the highest rate, half-way down at half the cosine, the final share at the last step."""
    config = TrainConfig(steps=111, rate=2.0, warmup=10, final=0.1)
    assert config.rate_at(0) == pytest.approx(0.2)
    assert config.rate_at(9) == config.rate_at(10) == pytest.approx(2.0)
    assert config.rate_at(60) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert config.rate_at(110) == pytest.approx(0.2)


def test_two_runs_end_with_the_same_bits():
    """Pre-training twice from one seed gives equal parameters and losses, whatever was drawn in between."""
    runs = []
    for noise in (1, 2):
        backbone = model()
        objective = MaskedModelling(Objective(backbone))
        torch.rand(noise)
        history = pretrain(backbone, objective, mixed(), TrainConfig(steps=4, warmup=2, threads=1))
        runs.append((history.loss, list(backbone.state_dict().values())))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_pretraining_learns_and_counts():
    """The loss falls, named terms are recorded per step, images are counted, watchers hear every step."""
    backbone, heard = model(), []
    config = TrainConfig(steps=30, rate=3e-3, warmup=5, threads=1)
    history = pretrain(backbone, MaskedModelling(Objective(backbone)), mixed(), config, heard.append)
    assert sum(history.loss[-5:]) < 0.9 * sum(history.loss[:5])
    assert history.images == 30 * 6
    assert history.images_per_second > 0
    assert [s.index for s in heard] == list(range(30))
    assert len(history.terms["pixels/ms"]) == 30
    assert not backbone.training


def test_a_step_that_is_not_finite_leaves_the_weights_alone():
    """A NaN loss is skipped and counted; the steps around it count."""
    module = nn.Linear(2, 1)
    before = []

    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        before.append(module.weight.detach().clone())
        loss = module(batch).square().mean()
        return loss, {"square": loss}

    batches = [torch.ones(3, 2), torch.full((3, 2), math.nan), torch.ones(3, 2)]
    history = fit(module, loss_of, batches, TrainConfig(steps=3, warmup=1, threads=1), size=len)
    assert history.skipped == (1,)
    assert len(history.loss) == 2
    assert torch.equal(before[1], before[2])
    assert torch.isfinite(module.weight).all()


def test_a_gradient_that_is_not_finite_is_skipped_too():
    """A finite loss with an infinite gradient does not reach the weights."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    steps: list[Step] = []
    config = TrainConfig(steps=1, warmup=1, threads=1)
    with pytest.raises(TrainingError, match="no step was finite"):
        fit(module, lambda b: (module(b).sqrt().sum(), {}), [torch.ones(1, 1)], config, size=len, on_step=steps.append)
    assert math.isfinite(steps[0].loss)
    assert steps[0].skipped
    assert float(module.weight.detach()) == 0.0


def test_a_run_without_one_finite_step_is_no_success():
    """Fewer steps than patience, none of them finite: an error, not an untrained model."""
    module = nn.Linear(2, 1)
    config = TrainConfig(steps=3, threads=1)
    with pytest.raises(TrainingError, match="no step was finite"):
        fit(module, lambda x: (module(x).sum() * torch.nan, {}), [torch.ones(1, 2)] * 3, config, size=len)


def test_training_stops_with_an_explanation_when_non_finite_steps_persist():
    """Ten bad steps in a row are an error that names the term."""
    module = nn.Linear(2, 1)
    nans = iter(lambda: torch.full((3, 2), math.nan), None)
    with pytest.raises(TrainingError, match="10 steps in a row") as caught:
        fit(module, lambda b: (module(b).mean(), {"square": module(b).mean()}), nans, TrainConfig(steps=50), size=len)
    assert "square" in str(caught.value)


def test_batches_that_run_out_are_an_error():
    """Two batches are not enough for three steps, and the error says so."""
    module = nn.Linear(2, 1)
    with pytest.raises(TrainingError, match="ran out"):
        fit(module, lambda b: (module(b).mean(), {}), [torch.ones(1, 2)] * 2, TrainConfig(steps=3), size=len)


def test_norms_biases_routers_and_scales_do_not_decay():
    """With a gradient of zero, weight decay moves matrices and nothing else."""
    backbone = model()
    before = {n: p.detach().clone() for n, p in backbone.named_parameters()}

    def nothing(batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        return sum((p * 0).sum() for p in backbone.parameters()), {}

    fit(backbone, nothing, [0] * 2, TrainConfig(steps=2, warmup=1, weight_decay=0.5), size=lambda b: 1)
    moved = {n for n, p in backbone.named_parameters() if not torch.equal(p, before[n])}
    assert {"embed.ms.proj.weight", "stages.0.0.attention.qkv.weight", "stages.3.0.experts.experts.w1_ECH"} <= moved
    for part in ("bias", "norm", "scale", "specialized.weight", "collaborative.weight", "token", "no_data"):
        assert not [n for n in moved if part in n]


def test_adapting_learns_labels_and_can_leave_the_backbone_alone():
    """A segmenter learns a rule of two bands; frozen, not one bit of the backbone changes."""
    segmenter = Segmenter(model(), SegmentationConfig(Modality.MS, ("low", "high"), width=16))
    before = [p.detach().clone() for p in segmenter.backbone.parameters()]
    history = adapt(segmenter, labelled(), TrainConfig(steps=25, rate=5e-3, warmup=3, threads=1), freeze=True)
    assert history.loss[-1] < 0.5 < history.loss[0]
    assert all(torch.equal(a, b) for a, b in zip(before, segmenter.backbone.parameters(), strict=True))
    assert all(p.requires_grad for p in segmenter.backbone.parameters())
    adapt(segmenter, labelled(), TrainConfig(steps=2, warmup=1, threads=1))
    assert any(not torch.equal(a, b) for a, b in zip(before, segmenter.backbone.parameters(), strict=True))


def test_a_student_comes_closer_to_its_teacher():
    """Distillation lowers the error of features; the teacher's own error is zero and it never changes."""
    teacher, student = model(0), model(1)
    before = [p.detach().clone() for p in teacher.parameters()]
    history = distil(student, teacher, mixed(), TrainConfig(steps=40, rate=3e-3, warmup=5, threads=1))
    assert sum(history.loss[-3:]) < 0.7 * sum(history.loss[:3])
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    same = distil(model(0), teacher, mixed(), TrainConfig(steps=1, warmup=1, threads=1))
    assert same.loss[0] == pytest.approx(0.0, abs=1e-9)


def segmenters() -> tuple[Segmenter, Segmenter]:
    """A teacher whose logits are far from even, and a student with another encoder and the same head."""
    config = SegmentationConfig(Modality.MS, ("low", "middle", "high"), width=16)
    torch.manual_seed(0)
    teacher, student = Segmenter(model(0), config), Segmenter(model(1), config)
    with torch.no_grad():
        teacher.head.classify.weight.mul_(10)
    student.head.load_state_dict(teacher.head.state_dict())
    return teacher.eval(), student


def one_modality(start: int = 0) -> Iterator[dict[Modality, Chips]]:
    """Chips of which the upper half saw nothing."""
    for batch in mixed(start):
        seen = batch[Modality.MS]
        valid_BHW = seen.valid_BHW.clone()
        valid_BHW[:, :32] = False
        yield {Modality.MS: Chips(seen.pixels_BCHW, valid_BHW)}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_first_loss_of_a_headed_student_is_the_divergence_of_its_classes(temperature: float):
    """T^2 sum p log(p / q) over valid pixels, p and q softmax of logits over T, in double; features as they were."""
    teacher, student = segmenters()
    (chips,) = next(one_modality()).values()
    with torch.no_grad():
        p, q = ((m(chips).double() / temperature).softmax(1) for m in (teacher, student))
        maps, wanted = (m.pyramid_and_logits(chips)[0] for m in (student, teacher))
    apart_BHW = (p * (p / q).log()).sum(1) * temperature**2
    config = TrainConfig(steps=1, warmup=1, threads=1)
    history = distil(student, teacher, one_modality(), config, temperature=temperature)
    assert history.terms["logits"][0] == pytest.approx(float(apart_BHW[chips.valid_BHW].mean()), rel=1e-5)
    assert set(history.terms) == {"ms/stage3", "ms/stage4", "logits"}
    stages = [(maps[i] - wanted[i]).square().mean() / wanted[i].var((0, 2, 3), correction=0).mean() for i in (2, 3)]
    assert history.terms["ms/stage3"][0] == pytest.approx(float(stages[0]), rel=1e-5)
    assert history.loss[0] == pytest.approx(float(sum(stages) / 2) + history.terms["logits"][0], rel=1e-5)


def test_a_headed_student_comes_to_its_teachers_classes():
    """Without any label the divergence falls to less than half, and the teacher stays as it was."""
    teacher, student = segmenters()
    before = [p.detach().clone() for p in teacher.parameters()]
    history = distil(student, teacher, one_modality(), TrainConfig(steps=30, rate=3e-3, warmup=3, threads=1))
    assert sum(history.terms["logits"][-3:]) < 0.5 * sum(history.terms["logits"][:3])
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_a_head_alone_on_one_side_is_refused():
    """An encoder has no classes to be compared."""
    teacher, student = segmenters()
    with pytest.raises(TrainingError, match="A model with a head cannot teach one without") as caught:
        distil(student.backbone, teacher, one_modality(), TrainConfig(steps=1, threads=1))
    assert caught.value.item == "Segmenter and RingMoE"


def test_what_was_set_before_training_is_set_after():
    """Deterministic mode, thread count and the random state come back, after an error too."""
    module, threads, state = nn.Linear(1, 1), torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(TrainingError):
        fit(module, lambda b: (b, {}), [], TrainConfig(steps=1, threads=1), size=len)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def squares(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(8, 1)


def square_of(module: nn.Module) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (module(batch) - 1).square().mean()
        return loss, {"square": loss}

    return loss_of


def test_two_half_batches_to_a_step_are_one_whole_batch():
    """Gradients are averaged: weights and losses agree to 1e-6; images of both halves count."""
    batches = list(torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(0)))
    whole, halves = squares(), squares()
    once = fit(whole, square_of(whole), batches, TrainConfig(steps=6, warmup=1, threads=1), size=len)
    config = TrainConfig(steps=6, warmup=1, threads=1, accumulate=2)
    parts = [half for batch in batches for half in batch.chunk(2)]
    twice = fit(halves, square_of(halves), parts, config, size=len)
    assert twice.loss == pytest.approx(once.loss, abs=1e-6)
    assert twice.terms["square"] == pytest.approx(once.terms["square"], abs=1e-6)
    assert twice.images == once.images == 96
    torch.testing.assert_close(halves.weight, whole.weight, rtol=0, atol=1e-6)


def test_a_step_one_of_whose_batches_is_not_finite_is_skipped():
    """Half a gradient does not reach the weights."""
    module, found = squares(), []
    before = module.weight.detach().clone()
    config = TrainConfig(steps=2, warmup=1, threads=1, accumulate=2)
    ones, nans = torch.ones(2, 8), torch.full((2, 8), math.nan)
    keep = lambda _: found.append(module.weight.detach().clone())  # noqa: E731
    history = fit(module, square_of(module), [ones, nans, ones, ones], config, size=len, on_step=keep)
    assert history.skipped == (0,)
    assert torch.equal(found[0], before)
    assert not torch.equal(found[1], before)


def test_the_wait_for_batches_is_told():
    """A loader that sleeps 30 ms a batch makes every step wait as long, and the history too."""
    module, steps = squares(), []

    def slow() -> Iterator[Tensor]:
        while True:
            time.sleep(0.03)
            yield torch.ones(2, 8)

    history = fit(module, square_of(module), slow(), TrainConfig(steps=4, threads=1), size=len, on_step=steps.append)
    assert all(0.03 <= step.waited_s <= step.seconds for step in steps)
    assert history.waited_s == pytest.approx(sum(step.waited_s for step in steps))
    assert history.waited_s <= history.seconds


def test_the_norm_told_is_that_of_the_gradient_before_it_is_clipped():
    """Of a loss 3 w + 4 v the gradient is (3, 4): 5, whatever it is clipped to."""
    module, steps = nn.Linear(2, 1, bias=False), []
    loss_of = lambda batch: (module(batch).sum(), {})  # noqa: E731
    batches = [torch.tensor([[3.0, 4.0]])]
    fit(module, loss_of, batches, TrainConfig(steps=1, clip=0.1, threads=1), size=len, on_step=steps.append)
    assert steps[0].norm == pytest.approx(5.0)
