from pathlib import Path

import pytest
import torch
from settings import write_recipe

from anomaly_ft.finetune.brakes.weight_average import trained_weights
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.finetune.watch import ValidationMonitor
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import level_distances, pooled_features
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import METHODS
from anomaly_ft.run.training import epochs, loop_state, make_monitor, mix, rule_of, steps_of_an_epoch

AUTO = "expert.schedule.epoch_steps=auto"


@pytest.fixture
def path(mvtec_folder: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.yaml", mvtec_folder, "optimizer.batch_size=4", "schedule.max_epochs=2")


def watched(setup: Setup) -> tuple[ValidationMonitor, GaussianDetector]:
    """The monitor of a run, and the detector of the pretrained encoder."""
    method = METHODS["gaussian"](setup)
    pretrained = method.fit()
    assert isinstance(pretrained, GaussianDetector)
    return make_monitor(setup, method, pretrained), pretrained


def state_of(setup: Setup, monitor: ValidationMonitor) -> LoopState:
    return loop_state(setup, monitor.method)


def setup_of(path: Path, *settings: str) -> Setup:
    return prepare(read_recipe(path, list(settings)), Terminal())


def test_pseudo_anomalies_equal_to_normal_images_raise_no_alarm(path: Path) -> None:
    settings = (
        "expert.validation.severity=0",
        "schedule.max_epochs=6",
        "schedule.max_steps=60",
        "expert.schedule.patience=2",
        "variation.preset=none",
    )
    setup = setup_of(path, *settings)
    monitor, _ = watched(setup)
    *_, last = epochs(setup, state_of(setup, monitor), monitor)
    assert last.validation is not None
    assert last.validation.auroc == pytest.approx(0.5, abs=0.05)  # equal up to the last bits of a batch
    assert last.verdict.reason == "no_progress"


def test_validation_takes_its_share_of_the_time_and_not_more(path: Path) -> None:
    monitor, _ = watched(setup_of(path))
    counted = []
    for share in (0.05, 0.25, 0.5):
        setup = setup_of(path, f"expert.validation.max_share={share}", "schedule.max_steps=1000", AUTO)
        steps = steps_of_an_epoch(setup, monitor.passes())
        informative = sum(pseudo.informative for pseudo in monitor.sets.values())
        seen = len(setup.data.split.train) + len(setup.data.split.val) * (1 + informative)
        assert seen / (seen + 3 * 4 * steps) <= share + 1e-9
        counted.append(steps)
    assert counted == sorted(counted, reverse=True)
    assert counted[0] > counted[2]


def test_an_epoch_is_as_long_as_the_recipe_says(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.epoch_steps=3", "schedule.max_steps=7", "schedule.max_epochs=6")
    monitor, _ = watched(setup)
    assert rule_of(setup.recipe.schedule, 3).max_epochs == 2  # the third would go beyond seven steps
    first, second, third = epochs(setup, state_of(setup, monitor), monitor)
    assert (first.images, second.images) == (0, 12)
    assert third.images == 2 + 4 + 4  # 14 images are 4, 4, 4 and 2; then they begin again


def test_a_schedule_shorter_than_an_epoch_has_one(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.epoch_steps=3", "schedule.max_steps=1")
    assert rule_of(setup.recipe.schedule, 3).max_epochs == 1


@pytest.mark.parametrize("kind", ["pretrained", "refit"])
def test_before_training_both_kinds_of_statistics_are_the_same(kind: str, path: Path) -> None:
    setup = setup_of(path)
    monitor, pretrained = watched(setup)
    features = pooled_features(setup.encoder, setup.data.test.pixels, setup.compute)
    expected = level_distances(pretrained, features, setup.compute)
    detector = monitor.method.refit(kind).detector
    assert level_distances(detector, features, setup.compute) == pytest.approx(expected, rel=1e-3)


def test_statistics_of_an_unknown_kind_are_refused(path: Path) -> None:
    monitor, _ = watched(setup_of(path))
    with pytest.raises(ValueError, match="statistics are 'averaged', expected one of pretrained, refit"):
        monitor.validate("averaged")


def test_the_statistics_of_the_pretrained_encoder_are_fitted_before_anything_else(path: Path) -> None:
    method = METHODS["gaussian"](setup_of(path))
    with pytest.raises(RuntimeError, match="fit comes first"):
        method.objective()


def test_the_pretrained_statistics_stay_while_the_encoder_trains(path: Path) -> None:
    setup = setup_of(path)
    monitor, pretrained = watched(setup)
    before = {name: value.clone() for name, value in pretrained.state_dict().items() if "encoder" not in name}
    list(epochs(setup, state_of(setup, monitor), monitor))
    after = pretrained.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert pretrained.encoder is setup.encoder, "of which it is a view"


def test_mixing_keeps_a_share_of_the_fine_tuned_weights(path: Path) -> None:
    setup = setup_of(
        path, "expert.schedule.interpolate=[0.5]", "expert.schedule.tolerance=0", "optimizer.lr=3e-3"
    )
    pretrained = trained_weights(setup.encoder)
    monitor, _ = watched(setup)
    records = list(epochs(setup, state_of(setup, monitor), monitor))
    tuned = trained_weights(setup.encoder)
    assert records[-1].verdict.best_epoch > 0
    aurocs = mix(setup, monitor, pretrained, records)
    assert set(aurocs) == {0.0, 0.5, 1.0}
    kept = list(aurocs)[-1]
    for name, now in trained_weights(setup.encoder).items():
        assert now.numpy() == pytest.approx(pretrained[name].lerp(tuned[name], kept).numpy(), abs=1e-7)


def test_nothing_is_mixed_when_the_pretrained_encoder_is_kept(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.interpolate=[0.5]", "schedule.max_epochs=0")
    pretrained = trained_weights(setup.encoder)
    monitor, _ = watched(setup)
    assert mix(setup, monitor, pretrained, list(epochs(setup, state_of(setup, monitor), monitor))) == {}


def test_memory_of_training_is_watched(path: Path) -> None:
    setup = setup_of(path)
    monitor, _ = watched(setup)
    first, *_, last = [r.validation for r in epochs(setup, state_of(setup, monitor), monitor)]
    assert first is not None
    assert last is not None
    level = setup.encoder.levels[-1]
    assert first.watched[f"drift/cka.{level}"] == pytest.approx(1, abs=1e-6)
    assert last.watched[f"drift/cka.{level}"] < 1
    assert first.watched["val/held_out_distance"] > first.watched["val/train_distance"]


def test_the_average_of_weights_is_what_is_kept(path: Path) -> None:
    settings = (
        "expert.schedule.average=true",
        "schedule.max_epochs=1",
        "expert.schedule.epoch_steps=12",
        "expert.schedule.tolerance=0",
        "optimizer.lr=3e-3",
    )
    setup = setup_of(path, *settings)
    pretrained = trained_weights(setup.encoder)
    monitor, _ = watched(setup)
    state = state_of(setup, monitor)
    *_, last = epochs(setup, state, monitor)
    assert last.verdict.best_epoch == 1
    plain = setup_of(path, *settings[1:])
    for name, value in pretrained.items():
        dict(plain.encoder.named_parameters())[name].data.copy_(value)
    other, _ = watched(plain)
    list(epochs(plain, state_of(plain, other), other))
    for name, end in trained_weights(plain.encoder).items():
        kept = dict(setup.encoder.named_parameters())[name].detach().numpy()
        assert kept == pytest.approx(((pretrained[name] + end) / 2).numpy(), abs=1e-6)


@pytest.mark.parametrize("final", ["pretrained", "refit"])
def test_a_validation_sees_as_many_images_as_are_counted(
    final: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_ft.finetune.methods.gaussian.DRIFT_IMAGES", 5)
    setup = setup_of(path, f"expert.gaussian.statistics={final}")
    monitor, _ = watched(setup)
    with torch.no_grad():  # as training does; else nothing is fitted again
        next(setup.encoder.parameters()).mul_(1.01)
    seen = []
    forward = Encoder.forward
    monkeypatch.setattr(
        Encoder, "forward", lambda self, images: (seen.append(len(images)), forward(self, images))[1]
    )
    monitor.validate()
    assert sum(seen) == monitor.passes()


@pytest.mark.parametrize(
    ("afforded", "steps", "epoch", "number"),
    [
        (130, 1000, 142, 7), (130, 300, 150, 2), (130, 90, 90, 1), (130, 1, 1, 1),
        (3, 150, 25, 6), (3, 60, 30, 2), (3, 20, 20, 1),
    ],
)  # fmt: skip
def test_validations_divide_the_steps_evenly_into_epochs_that_are_not_too_short(
    afforded: int, steps: int, epoch: int, number: int, path: Path
) -> None:
    changes = (f"schedule.max_steps={steps}", "schedule.max_epochs=100", "expert.validation.max_share=0.25")
    setup = setup_of(path, *changes, AUTO)
    passes = afforded * 4  # so many steps take three quarters of the time
    assert steps_of_an_epoch(setup, passes) == epoch
    assert rule_of(setup.recipe.schedule, epoch).max_epochs == number


def test_a_run_that_goes_on_keeps_the_length_of_its_epochs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(path, "expert.schedule.epoch_steps=8")
    monitor, _ = watched(setup)
    begun = state_of(setup, monitor)
    next(epochs(setup, begun, monitor))
    gone_on = state_of(setup, monitor)
    gone_on.load_state_dict(begun.state_dict())
    monkeypatch.setattr("anomaly_ft.run.training.steps_of_an_epoch", lambda *_: 1)  # a calibration that differs
    after = next(epochs(setup, gone_on, monitor))
    assert after.images >= 14 * (begun.epoch_steps // 4) > 4  # four steps are a pass over 14 images


def test_before_training_nothing_is_fitted_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(path, "expert.gaussian.statistics=refit")
    monitor, _ = watched(setup)
    monkeypatch.setattr(
        "anomaly_ft.finetune.methods.gaussian.fit_gaussians", lambda *_, **__: pytest.fail("fitted again")
    )
    assert next(epochs(setup, state_of(setup, monitor), monitor)).epoch == 0


def test_warm_up_is_over_before_half_of_training_is(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.warmup_epochs=1", "schedule.max_steps=3")  # of 4 that a pass has
    monitor, _ = watched(setup)
    state = state_of(setup, monitor)
    state.optimizer.step()
    state.scheduler.step()
    assert state.optimizer.param_groups[0]["lr"] == setup.recipe.optimizer.lr


def test_when_no_augmentation_is_near_the_target_the_run_says_that_the_nearest_decides_alone(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(
        setup_of(path, "validation.augmentations=[cutmix,mixup]", "expert.validation.target_auroc=0.99",
                 "expert.validation.tolerance=0.001")
    )  # fmt: skip
    said = capsys.readouterr().err
    assert said.count("the nearest to the target and yet far from it: it alone decides") == 1
    assert said.count("too far from the target to be used") == 1


def test_training_images_vary_anew_in_each_pass_and_a_third_of_them_stays_clean(path: Path) -> None:
    setup = setup_of(path)
    images = setup.data.normals("train")
    names, count = [record.name for record in images.records], len(images)
    pixels = images.pixels[:]
    seen = [setup.vary_for_training(pixels, names, range(count), number) for number in range(1, 20)]
    assert not any((seen[0] == other).all() for other in seen[1:])
    clean = [(one == pixels).all((1, 2, 3)).mean() for one in seen]
    assert sum(clean) / len(clean) == pytest.approx(1 / 3, abs=0.1)
    assert (setup.vary_for_training(pixels[3:5], names[3:5], [3, 4], 7) == seen[6][3:5]).all()


def test_without_variation_a_run_sees_its_images_as_they_are(path: Path) -> None:
    setup = setup_of(path, "variation.preset=none")
    assert not setup.augments
    for part in ("train", "val", "calibration"):
        assert (setup.inputs(part)[:] == setup.data.normals(part).pixels[:]).all()


def test_statistics_validation_and_threshold_see_images_and_their_varied_copies(path: Path) -> None:
    setup = setup_of(path, "expert.variation.copies=3")
    for part, copies in (("train", 3), ("val", 1), ("calibration", 4)):
        count = len(setup.data.normals(part))
        inputs = setup.inputs(part)
        assert len(inputs) == (1 + copies) * count
        assert (inputs[:count] == setup.data.normals(part).pixels[:]).all()
    monitor, _ = watched(setup)
    validation = monitor.validate()
    assert len(validation.influence) == len(setup.data.split.val)
