"""Runs that are cut short in every way, and go on as if nothing had been."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lives
import pytest
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, tracked, write_recipe

CHANGES = (
    "name=tiny", "optimizer.batch_size=4", "schedule.max_epochs=3", "expert.schedule.epoch_steps=4",
    "expert.schedule.patience=9", "expert.schedule.margin=99", "expert.schedule.tolerance=0",
    "expert.runtime.checkpoint_minutes=0",
)  # fmt: skip
STEPS = 12  # 14 images to fit in batches of 4, three epochs
SAME = ("history.jsonl", "predictions.csv", "split.csv", "detector.safetensors", "encoder/model.safetensors")


class Place:
    """A recipe and an output folder of their own, in one MLflow store."""

    def __init__(self, folder: Path, root: Path, store: str) -> None:
        self.output, self.log, self.store = folder / "runs", folder / "log.txt", store
        self.experiment = folder.name
        folder.mkdir(exist_ok=True)
        changes = (*CHANGES, *ONE_AUGMENTATION, *tracked(store, self.experiment))
        self.recipe = write_recipe(folder / "tiny.yaml", root, *changes)

    def train(self, *options: str, death: dict[str, Any] | None = None) -> int:
        return lives.run(["train", str(self.recipe), "--output", str(self.output), *options], self.log, death)

    @property
    def finished(self) -> Path:
        return self.output / "tiny-001"

    @property
    def partial(self) -> Path:
        return self.output / ".tiny-001.partial"

    def said(self) -> str:
        return self.log.read_text()

    def logged(self) -> list[Any]:
        client = MlflowClient(self.store)
        found = client.get_experiment_by_name(self.experiment)
        return list(client.search_runs([found.experiment_id]))

    def points(self, run: Any = None) -> dict[str, list[tuple[int, float]]]:
        run = run or self.logged()[0]
        client = MlflowClient(self.store)
        kept = [key for key in run.data.metrics if not key.endswith("_per_second")]
        return {
            key: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)] for key in kept
        }


@pytest.fixture(scope="session")
def whole(mvtec_folder: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that nothing happened to."""
    place = Place(tmp_path_factory.mktemp("whole"), mvtec_folder, store)
    assert place.train(death={"below": str(place.output)}) == 0, place.said()
    return place


@pytest.fixture
def places(mvtec_folder: Path, store: str, tmp_path: Path) -> Callable[[], Place]:
    return lambda: Place(tmp_path / f"place {time.time_ns()}", mvtec_folder, store)


@pytest.fixture
def place(places: Callable[[], Place]) -> Place:
    return places()


def assert_same(place: Place, whole: Place) -> None:
    """Bit by bit what the run is that nothing happened to; in MLflow too, no point twice."""
    for name in SAME:
        assert (place.finished / name).read_bytes() == (whole.finished / name).read_bytes(), name
    left = {path.relative_to(place.finished).as_posix() for path in place.finished.rglob("*")}
    assert left == {path.relative_to(whole.finished).as_posix() for path in whole.finished.rglob("*")}
    (run,) = place.logged()
    assert run.info.status == "FINISHED"
    assert run.info.run_id == json.loads((place.finished / "summary.json").read_text())["mlflow_run_id"]
    assert place.points() == whole.points()


def kills(count: int, seed: int) -> list[int]:
    return [random.Random(seed + i).randint(1, STEPS) for i in range(count)]


def die_and_go_on(place: Place, whole: Place, step: int) -> None:
    assert place.train(death={"step": step}) == lives.KILLED
    assert not place.finished.exists()
    assert place.train("--resume") == 0, place.said()
    assert "Traceback" not in place.said()
    assert_same(place, whole)


@pytest.mark.parametrize("attempt", range(3))
def test_a_run_killed_at_a_random_step_goes_on_to_the_same_end(
    attempt: int, place: Place, whole: Place, chance: random.Random
) -> None:
    die_and_go_on(place, whole, chance.randint(1, STEPS))


@pytest.mark.parametrize("number", [10, 150, 300, 500])
def test_a_run_killed_while_images_are_varied_goes_on_to_the_same_end(
    number: int, place: Place, whole: Place, chance: random.Random
) -> None:
    """In the statistics, what-if table, validation, or at the end: wherever the number lies."""
    assert place.train(death={"varied": number - chance.randint(0, 9)}) == lives.KILLED
    assert place.train("--resume") == 0, place.said()
    assert_same(place, whole)


@pytest.mark.parametrize("step", kills(20, seed=0))
@pytest.mark.faults
def test_twenty_runs_killed_at_random_steps_go_on_to_the_same_end(
    step: int, place: Place, whole: Place
) -> None:
    die_and_go_on(place, whole, step)


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(place: Place, whole: Place) -> None:
    assert place.train(death={"step": 3}) == lives.KILLED
    for _ in range(2):
        assert place.train("--resume", death={"step": 4}) == lives.KILLED
    assert place.train("--resume") == 0, place.said()
    assert_same(place, whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_step_end_and_the_run_go_on(name: str, place: Place, whole: Place) -> None:
    process = lives.start(["train", str(place.recipe), "--output", str(place.output)], place.log)
    while not list(place.partial.glob("checkpoint/0*.json")) and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.Signals[name])
    process.join(120)
    assert process.exitcode == 130, place.said()
    assert f"{name}: finishing the step and writing a checkpoint" in place.said()
    assert "--resume goes on" in place.said()
    assert not place.finished.exists()
    (run,) = place.logged()
    assert run.info.status == "KILLED"
    assert place.train("--resume") == 0, place.said()
    assert_same(place, whole)


def test_a_changed_recipe_is_refused_with_what_changed(place: Place, whole: Place) -> None:
    assert place.train(death={"step": 6}) == lives.KILLED
    before = sorted(place.partial.rglob("*"))
    assert place.train("--resume", "-s", "optimizer.lr=5e-4", "-s", "expert.gaussian.grid=5") == 2
    assert "  expert.gaussian.grid: 4 -> 5\n  optimizer.lr: 0.0003 -> 0.0005\n" in place.said()
    assert (
        "only schedule.max_epochs, tracking, runtime may change, the last two under expert too" in place.said()
    )
    assert sorted(place.partial.rglob("*")) == before
    assert place.train("--resume", "-s", "expert.runtime.batch_size=7", "-s", "schedule.max_epochs=2") == 0, (
        place.said()
    )
    history = (place.finished / "history.jsonl").read_text().splitlines()
    assert history[:2] == (whole.finished / "history.jsonl").read_text().splitlines()[:2]
    assert len(history) == 3


def test_changed_data_is_refused_with_what_changed(place: Place, mvtec_folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(mvtec_folder, tmp_path / "data"))
    text = place.recipe.read_text().replace(str(mvtec_folder), str(root))
    place.recipe.write_text(text)
    assert place.train(death={"step": 2}) == lives.KILLED
    (root / "test" / "good" / "003.png").unlink()
    assert place.train("--resume") == 2
    assert "begun with other data (- then, + now):\n  - test/good/003.png,0,test," in place.said()


def test_resuming_what_is_not_there_says_what_is(place: Place, whole: Place) -> None:
    assert place.train("--resume") == 2
    assert "there is no unfinished run of the name 'tiny' in " in place.said()
    arguments = ["train", str(whole.recipe), "--output", str(whole.output), "--resume"]
    assert lives.run(arguments, place.log) == 2
    assert "; finished is tiny-001; a new run is started without --resume" in place.said()


def test_a_second_run_in_the_same_output_folder_is_refused(place: Place) -> None:
    process = lives.start(["train", str(place.recipe), "--output", str(place.output)], place.log)
    while not list(place.partial.glob("checkpoint/0*.json")) and process.is_alive():
        time.sleep(0.01)
    for options in ((), ("--resume",)):
        assert place.train(*options) == 2
    assert place.said().count("another run is being written there; wait for its end, or give this one") == 2
    process.join(120)
    assert process.exitcode == 0
    assert [path.name for path in place.output.glob("*tiny*")] == ["tiny-001"]
