from pathlib import Path

import numpy as np
import pytest

from anomaly_ft.finetune.validation import level_informativeness
from anomaly_ft.finetune.watch import current, passes, watchdog
from anomaly_ft.finetune.weight_average import trained_weights
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.inference import level_distances, pooled_features
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.training import epochs, loop_state, mix, rule_of, steps_of_an_epoch

RECIPE = """
data: {{root: {root}, image_size: 64}}
encoder: {{name: test_efficientnet, weights: random}}
optimizer: {{batch_size: 4}}
schedule: {{max_epochs: 2}}
runtime: {{device: cpu, precision: fp32}}
tracking: {{mlflow: false}}
expert:
  data: {{val_share: 0.2, calibration_share: 0.2}}
  gaussian: {{grid: 4}}
  runtime: {{threads: 1}}
"""


@pytest.fixture
def path(mvtec_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(root=mvtec_folder))
    return tmp_path / "tiny.yaml"


def setup_of(path: Path, *settings: str) -> Setup:
    return prepare(read_recipe(path, list(settings)), Terminal())


def test_pseudo_anomalies_equal_to_normal_images_raise_no_alarm(path: Path) -> None:
    settings = (
        "expert.validation.severity=0",
        "schedule.max_epochs=6",
        "schedule.max_steps=60",
        "expert.schedule.patience=2",
    )
    setup = setup_of(path, *settings)
    dog = watchdog(setup)
    *_, last = epochs(setup, loop_state(setup, dog.induced), dog)
    assert last.validation is not None
    assert last.validation.auroc == pytest.approx(0.5, abs=0.05)  # equal up to the last bits of a batch
    assert last.verdict.reason == "no_progress"


def test_validation_takes_its_share_of_the_time_and_not_more(path: Path) -> None:
    sets = watchdog(setup_of(path)).sets
    counted = []
    for share in (0.05, 0.25, 0.5):
        setup = setup_of(path, f"expert.validation.max_share={share}", "schedule.max_steps=1000")
        steps = steps_of_an_epoch(setup, sets)
        informative = sum(pseudo.informative for pseudo in sets.values())
        seen = len(setup.data.split.fit) + len(setup.data.split.watch) * (1 + informative)
        assert seen / (seen + 3 * 4 * steps) <= share + 1e-9
        counted.append(steps)
    assert counted == sorted(counted, reverse=True)
    assert counted[0] > counted[2]


def test_an_epoch_is_as_long_as_the_recipe_says(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.epoch_steps=3", "schedule.max_steps=7", "schedule.max_epochs=6")
    dog = watchdog(setup)
    assert rule_of(setup.recipe.schedule, 3).max_epochs == 2  # the third would go beyond seven steps
    first, second, third = epochs(setup, loop_state(setup, dog.induced), dog)
    assert (first.images, second.images) == (0, 12)
    assert third.images == 2 + 4 + 4  # 14 images are 4, 4, 4 and 2; then they begin again


def test_a_schedule_shorter_than_an_epoch_has_one(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.epoch_steps=3", "schedule.max_steps=1")
    assert rule_of(setup.recipe.schedule, 3).max_epochs == 1


@pytest.mark.parametrize("final", ["induced", "refitted", "averaged"])
def test_before_training_all_kinds_of_gaussians_are_the_same(final: str, path: Path) -> None:
    setup = setup_of(path)
    dog = watchdog(setup)
    features = pooled_features(setup.encoder, setup.data.test.pixels, setup.compute)
    expected = level_distances(dog.induced, features, setup.compute)
    detector = current(setup, dog.induced, final)
    assert level_distances(detector, features, setup.compute) == pytest.approx(expected, rel=1e-3)


def test_levels_count_for_what_they_tell_apart_before_training(path: Path) -> None:
    setup = setup_of(path, "expert.gaussian.level_weights=informative")
    dog = watchdog(setup)
    weights = dog.induced.level_weights.numpy()
    assert weights.sum() == pytest.approx(1)
    features = pooled_features(setup.encoder, setup.data.normals("watch").pixels, setup.compute)
    normal = level_distances(dog.induced, features, setup.compute)
    expected = np.zeros(len(weights))
    for pseudo in (pseudo for pseudo in dog.sets.values() if pseudo.informative):
        wrong = level_distances(
            dog.induced, pooled_features(setup.encoder, pseudo.pixels, setup.compute), setup.compute
        )
        for i in range(len(weights)):
            wins = np.mean([np.sign(b - a) / 2 + 0.5 for a in normal[:, i] for b in wrong[:, i]])
            expected[i] += max(0.0, 2 * wins - 1) ** 2
    assert weights == pytest.approx(expected / expected.sum(), abs=1e-3)
    assert current(setup, dog.induced, "refitted").level_weights.numpy() == pytest.approx(weights)


def test_levels_that_all_guess_are_an_error(path: Path) -> None:
    dog = watchdog(setup_of(path))
    with pytest.raises(Exception, match="no level tells held-out normal images"):
        level_informativeness(
            lambda pixels: np.ones((len(pixels), 3)), dog.setup.data.normals("watch").pixels, dog.sets
        )


def test_mixing_keeps_a_share_of_the_fine_tuned_weights(path: Path) -> None:
    setup = setup_of(
        path, "expert.schedule.interpolate=[0.5]", "expert.schedule.tolerance=1000", "optimizer.lr=3e-3"
    )
    dog, pretrained = watchdog(setup), trained_weights(setup.encoder)
    records = list(epochs(setup, loop_state(setup, dog.induced), dog))
    tuned = trained_weights(setup.encoder)
    assert records[-1].verdict.best_epoch == 2
    aurocs = mix(setup, dog, pretrained, records)
    assert set(aurocs) == {0.0, 0.5, 1.0}
    kept = list(aurocs)[-1]
    for name, now in trained_weights(setup.encoder).items():
        assert now.numpy() == pytest.approx(pretrained[name].lerp(tuned[name], kept).numpy(), abs=1e-7)


def test_nothing_is_mixed_when_the_pretrained_encoder_is_kept(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.interpolate=[0.5]", "schedule.max_epochs=0")
    dog, pretrained = watchdog(setup), trained_weights(setup.encoder)
    assert mix(setup, dog, pretrained, list(epochs(setup, loop_state(setup, dog.induced), dog))) == {}


def test_memory_of_training_is_watched(path: Path) -> None:
    setup = setup_of(path)
    dog = watchdog(setup)
    first, *_, last = [r.validation for r in epochs(setup, loop_state(setup, dog.induced), dog)]
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
        "expert.schedule.tolerance=1000",
        "optimizer.lr=3e-3",
    )
    setup = setup_of(path, *settings)
    pretrained, dog = trained_weights(setup.encoder), watchdog(setup)
    state = loop_state(setup, dog.induced)
    *_, last = epochs(setup, state, dog)
    assert last.verdict.best_epoch == 1
    plain = setup_of(path, *settings[1:])
    for name, value in pretrained.items():
        dict(plain.encoder.named_parameters())[name].data.copy_(value)
    other = watchdog(plain)
    list(epochs(plain, loop_state(plain, other.induced), other))
    for name, end in trained_weights(plain.encoder).items():
        kept = dict(setup.encoder.named_parameters())[name].detach().numpy()
        assert kept == pytest.approx(((pretrained[name] + end) / 2).numpy(), abs=1e-6)


@pytest.mark.parametrize("final", ["induced", "refitted"])
def test_a_validation_sees_as_many_images_as_are_counted(
    final: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_ft.finetune.watch.DRIFT_IMAGES", 5)
    setup = setup_of(path, f"expert.gaussian.final={final}")
    dog, seen = watchdog(setup), []
    forward = Encoder.forward
    monkeypatch.setattr(
        Encoder, "forward", lambda self, images: (seen.append(len(images)), forward(self, images))[1]
    )
    dog.validate()
    assert sum(seen) == passes(setup, dog.sets)


@pytest.mark.parametrize(("steps", "epoch", "number"), [(1000, 142, 7), (300, 150, 2), (90, 90, 1), (1, 1, 1)])
def test_validations_divide_the_steps_evenly(
    steps: int, epoch: int, number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(path, f"schedule.max_steps={steps}", "schedule.max_epochs=100")
    sets = watchdog(setup).sets
    monkeypatch.setattr(
        "anomaly_ft.run.train.training.passes", lambda *_: 130 * 4
    )  # of which 130 steps are a quarter
    assert steps_of_an_epoch(setup, sets) == epoch
    assert rule_of(setup.recipe.schedule, epoch).max_epochs == number


def test_a_run_that_goes_on_keeps_the_length_of_its_epochs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(path)
    dog = watchdog(setup)
    begun = loop_state(setup, dog.induced)
    next(epochs(setup, begun, dog))
    gone_on = loop_state(setup, dog.induced)
    gone_on.load_state_dict(begun.state_dict())
    monkeypatch.setattr(
        "anomaly_ft.run.train.training.steps_of_an_epoch", lambda *_: 1
    )  # a calibration that differs
    after = next(epochs(setup, gone_on, dog))
    assert after.images >= 4 * (begun.epoch_steps - 1) > 4


def test_before_training_nothing_is_fitted_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(path, "expert.gaussian.final=refitted")
    dog = watchdog(setup)
    monkeypatch.setattr("anomaly_ft.finetune.watch.fit_gaussians", lambda *_, **__: pytest.fail("fitted again"))
    assert next(epochs(setup, loop_state(setup, dog.induced), dog)).epoch == 0


def test_warm_up_is_over_before_half_of_training_is(path: Path) -> None:
    setup = setup_of(path, "expert.schedule.warmup_epochs=1", "schedule.max_steps=3")  # of 4 that a pass has
    state = loop_state(setup, watchdog(setup).induced)
    state.optimizer.step()
    state.scheduler.step()
    assert state.optimizer.param_groups[0]["lr"] == setup.recipe.optimizer.lr
