"""What a run will take is estimated from a few of its batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from settings import write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.estimate import REST, Estimate, count, estimate
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import train


class Counting(Terminal):
    """Counts the images that pass the encoder without training it."""

    images = 0

    def passes(self, batches: Iterator[Any], total: int) -> Iterator[Any]:
        self.images += total
        return batches


@pytest.mark.parametrize(
    "settings",
    [
        ("schedule.max_epochs=2", "expert.schedule.epoch_steps=2"),
        ("schedule.max_epochs=0", "gaussian.position=free", "variation.preset=none"),
        ("model.kind=filter", "expert.validation.severity=0.3", "expert.schedule.epoch_steps=2"),
    ],
    ids=["trained", "frozen", "filter"],
)
def test_a_run_sees_as_many_images_as_were_counted_before_and_takes_the_disk_that_was_estimated(
    mvtec_folder: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "tiny.yaml", mvtec_folder, *settings))
    guessed = estimate(prepare(recipe, Terminal(quiet=True)))
    terminal = Counting(quiet=True)
    setup = prepare(recipe, terminal)
    counted = count(setup)
    run = train(setup, tmp_path / "runs")
    seen = counted.before + counted.epochs * counted.validation + counted.after + counted.exact
    assert 0.7 < seen / terminal.images < 1.4
    assert counted.epochs == run.summary.epochs
    large = list(run.folder.rglob("*.safetensors"))
    assert guessed.folder - REST == pytest.approx(sum(path.stat().st_size for path in large), rel=0.1)
    assert guessed.logged == 0, "MLflow is off"
    assert guessed.memory
    assert all(seconds >= 0 for seconds in guessed.seconds.values())


def test_seconds_are_those_of_an_image_times_what_was_counted(mvtec_folder: Path, tmp_path: Path) -> None:
    """By a clock that goes on one second whenever it is read."""
    recipe = read_recipe(write_recipe(tmp_path / "tiny.yaml", mvtec_folder, "schedule.max_epochs=3"))
    setup = prepare(recipe, Terminal(quiet=True))
    counted, ticks = count(setup), iter(range(10**6))
    guessed = estimate(setup, lambda: float(next(ticks)))
    assert counted.steps > 0
    assert guessed.seconds["training"] == counted.steps, "a second a step"


def test_an_estimate_reads_in_one_line() -> None:
    said = str(Estimate({"training": 300.0, "validating": 132.0}, 3 * 2**29, 2**27, 2**26, 112))
    assert said == (
        "estimate about 7 minutes if nothing ends training early (5.0 training, 2.2 validating), 1.5 GiB of "
        "memory, 128 MiB on disk and 64 MiB in MLflow; measured on 112 images"
    )
    assert "memory" not in str(Estimate({"training": 3.0}, None, 2**27, 0, 112))


def test_a_dry_run_says_what_a_run_would_take(mvtec_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", mvtec_folder, "tracking.mlflow=true")
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path / "runs"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "estimate about 1 minutes if nothing ends training early" in result.stderr
    assert "in MLflow; measured on" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
