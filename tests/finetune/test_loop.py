import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LinearLR

from anomaly_ft.errors import DivergedError
from anomaly_ft.finetune.early_stopping import StoppingRule
from anomaly_ft.finetune.loop import Backward, fine_tune
from anomaly_ft.finetune.records import EpochRecord, Validation
from anomaly_ft.finetune.state import LoopState


class Parabola(nn.Module):
    """Loss 1 + |w - mean of the batch|^2; knows nothing of images."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -2.0]))

    def forward(self, batch: Tensor) -> Tensor:
        return 1 + (self.w - batch.mean(0)).square().sum()


class Bench:
    """A loop around a parabola; `aurocs` is what validation finds, epoch by epoch."""

    def __init__(self, aurocs: list[float], *, lr: float = 0.1, momentum: float = 0.9) -> None:
        self.module = Parabola()
        self.seen: list[Tensor] = []  # the weights at each validation
        self.asked: list[int] = []  # the epochs whose batches were asked for
        self.aurocs = aurocs
        self.fabric = Fabric(accelerator="cpu", devices=1)
        optimizer = torch.optim.SGD(self.module.parameters(), lr=lr, momentum=momentum)
        self.objective, self.optimizer = self.fabric.setup(self.module, optimizer)
        self.scheduler = ConstantLR(self.optimizer, factor=1.0)

    @property
    def state(self) -> LoopState:
        return LoopState(self.objective, self.optimizer, self.scheduler)

    def batches(self, epoch: int, done: int = 0) -> Iterator[Tensor]:
        self.asked.append(epoch)
        generator = torch.Generator().manual_seed(epoch)
        yield from [torch.randn(size, 2, generator=generator) for size in (4, 4, 2)][done:]

    def validate(self) -> Validation:
        self.seen.append(self.module.w.detach().clone())
        auroc = self.aurocs[len(self.seen) - 1]
        if math.isnan(auroc):
            raise DivergedError("a score is not finite")
        return Validation(auroc, {"scar": auroc}, {"scar": np.zeros(20)}, 0.0)

    def run(
        self, rule: StoppingRule, batches: Callable[[int, int], Iterator[Tensor]] | None = None
    ) -> list[EpochRecord]:
        return list(fine_tune(self.state, Backward(self.fabric), batches or self.batches, self.validate, rule))


def test_the_untrained_module_is_measured_before_anything_else() -> None:
    bench = Bench([0.8])
    records = fine_tune(bench.state, Backward(bench.fabric), bench.batches, bench.validate, StoppingRule(1))
    first = next(records)
    assert (first.epoch, first.train_loss, first.images) == (0, None, 0)
    assert first.validation is not None
    assert bench.seen[0].tolist() == [3.0, -2.0]
    assert bench.asked == []


def test_no_epochs_train_nothing() -> None:
    bench = Bench([0.8])
    (record,) = bench.run(StoppingRule(0))
    assert (record.verdict.stop, record.verdict.reason, record.verdict.best_epoch) == (True, "max_epochs", 0)
    assert bench.module.w.tolist() == [3.0, -2.0]


def test_a_record_holds_the_mean_loss_over_the_images_of_its_epoch() -> None:
    bench = Bench([0.8, 0.81], lr=1e-9, momentum=0)
    record = bench.run(StoppingRule(1))[1]
    batches = list(bench.batches(1))
    losses = [Parabola()(batch).item() * len(batch) for batch in batches]
    assert record.train_loss == pytest.approx(sum(losses) / 10, rel=1e-5)
    assert record.images == 10
    assert record.train_seconds > 0


def test_batches_are_asked_for_by_their_epoch_from_one_on() -> None:
    bench = Bench([0.8, 0.81, 0.82, 0.83])
    records = bench.run(StoppingRule(3))
    assert bench.asked == [1, 2, 3]
    assert [record.epoch for record in records] == [0, 1, 2, 3]


def test_stopping_and_restoring_is_training_for_as_many_epochs_as_the_best() -> None:
    stopped = Bench([0.80, 0.82, 0.84, 0.70, 0.71])
    records = stopped.run(StoppingRule(10))
    assert (records[-1].epoch, records[-1].verdict.reason, records[-1].verdict.best_epoch) == (
        4,
        "forgetting",
        2,
    )
    short = Bench([0.80, 0.82, 0.84])
    short.run(StoppingRule(2))
    assert torch.equal(stopped.module.w, short.module.w)
    assert not torch.equal(stopped.seen[-1], short.module.w)


def test_when_nothing_beats_the_pretrained_weights_they_come_back() -> None:
    bench = Bench([0.80, 0.79, 0.79, 0.79])
    records = bench.run(StoppingRule(10, margin=1e9, patience=3))
    assert records[-1].verdict.best_epoch == 0
    assert bench.module.w.tolist() == [3.0, -2.0]
    assert bench.seen[-1].tolist() != [3.0, -2.0]


def test_the_weights_are_back_when_the_last_record_comes() -> None:
    bench = Bench([0.80, 0.82, 0.84])
    loop = fine_tune(bench.state, Backward(bench.fabric), bench.batches, bench.validate, StoppingRule(2))
    weights = [bench.module.w.detach().clone() for record in loop]
    assert torch.equal(weights[-1], bench.seen[2])


class MeanError(nn.Module):
    """A mean over images, as objectives are."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -2.0]))

    def forward(self, batch: Tensor) -> Tensor:
        return (self.w - batch).square().sum(1).mean()


@pytest.mark.parametrize("at_a_time", [1, 3, 4, 100])
def test_a_step_in_parts_is_the_step_as_a_whole(at_a_time: int) -> None:
    weights, losses = [], []
    for parts in (0, at_a_time):
        bench = Bench([0.8, 0.81, 0.82])
        module = MeanError()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        objective, wrapped = bench.fabric.setup(module, optimizer)
        state = LoopState(objective, wrapped, ConstantLR(wrapped, factor=1.0))
        bench.module = module
        backward = Backward(bench.fabric, at_a_time=parts)
        records = list(fine_tune(state, backward, bench.batches, bench.validate, StoppingRule(2)))
        weights.append(bench.seen[-1])
        losses.append([record.train_loss for record in records[1:]])
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_every_step_moves_the_learning_rate() -> None:
    bench = Bench([0.8, 0.81])
    bench.scheduler = LinearLR(bench.optimizer, start_factor=0.25, total_iters=3)
    bench.run(StoppingRule(1))
    assert bench.scheduler.last_epoch == 3
    assert bench.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_learning_rate_that_diverges_keeps_the_best_epoch(lr: float) -> None:
    bench = Bench([0.80, 0.82])
    records = bench.run(StoppingRule(10), lambda epoch, done: _exploding(bench, epoch, lr))
    assert [record.epoch for record in records] == [0, 1, 2]
    assert records[-1].validation is None
    assert (records[-1].verdict.reason, records[-1].verdict.best_epoch) == ("diverged", 1)
    assert torch.equal(bench.module.w, bench.seen[1])


def _exploding(bench: Bench, epoch: int, lr: float) -> Iterator[Tensor]:
    if epoch == 2:
        bench.optimizer.param_groups[0]["lr"] = lr
    yield from bench.batches(epoch)


def test_a_validation_that_finds_no_finite_scores_keeps_the_best_epoch() -> None:
    bench = Bench([0.80, 0.82, math.nan])
    records = bench.run(StoppingRule(10))
    assert (records[-1].verdict.reason, records[-1].verdict.best_epoch) == ("diverged", 1)
    assert records[-1].validation is None
    assert torch.equal(bench.module.w, bench.seen[1])


def test_a_pretrained_module_without_finite_scores_is_an_error() -> None:
    with pytest.raises(DivergedError, match="a score is not finite"):
        Bench([math.nan]).run(StoppingRule(10))


def test_an_epoch_without_batches_is_an_error() -> None:
    bench = Bench([0.80])
    with pytest.raises(ValueError, match="an epoch needs at least one batch"):
        bench.run(StoppingRule(1), _no_batches)


def _no_batches(epoch: int, done: int) -> Iterator[Tensor]:
    return iter(())


def test_no_gradient_is_left_over() -> None:
    bench = Bench([0.80, 0.81])
    bench.run(StoppingRule(1))
    assert bench.module.w.grad is None
