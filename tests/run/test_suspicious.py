"""The training images that a run tells people to look at."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from settings import ONE_AUGMENTATION, write_images, write_recipe
from summaries import PLAIN

from anomaly_ft.cli.main import main
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError
from anomaly_ft.model import inference
from anomaly_ft.model.inference import feature_batches
from anomaly_ft.run.both_encoders import open_both
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.log import log_suspicious
from anomaly_ft.run.open import open_recipe
from anomaly_ft.run.robust import usual_images
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.summary_text import doubtful, run_note
from anomaly_ft.run.suspicious import suspicious_images

DOUBT = (*ONE_AUGMENTATION, "name=doubt", "schedule.max_epochs=0", "expert.runtime.batch_size=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_textures: Callable[[int, int, int], np.ndarray]) -> Path:
    """A run whose ninth training image is another thing altogether; there is no test split."""
    folder = tmp_path_factory.mktemp("doubt")
    images = make_textures(30, 64, 1)
    images[9, ::2] = 255
    write_images(folder / "images", images)
    write_recipe(folder / "doubt.yaml", folder / "images", *DOUBT)
    done = CliRunner().invoke(main, ["train", str(folder / "doubt.yaml"), "--output", str(folder / "runs")])
    assert done.exit_code == 0, done.output
    assert "look at     009.png" in done.stderr
    return folder / "runs" / "doubt-001"


def test_a_run_lists_its_most_suspicious_training_images_the_strangest_first(run: Path) -> None:
    found = json.loads((run / "summary.json").read_text())["suspicious"]
    assert len(found) == 8
    assert found[0]["name"] == "009.png"
    assert found[0]["stands_out"] is True
    assert found[0]["deviations"] > 3.5
    assert [row["distance"] for row in found] == sorted((row["distance"] for row in found), reverse=True)
    split = (run / "split.csv").read_text().splitlines()
    assert all(any(line.startswith(f"{row['name']},0,{row['part']},") for line in split) for row in found)


def test_the_report_shows_them_with_pictures_without_a_test_split_too(run: Path) -> None:
    page = (run / "report.html").read_text()
    part = page.split("Look at these training images")[1].split("<h2>")[0]
    assert part.count("data:image/jpeg;base64,") == 8
    assert "009.png" in part
    assert "those marked stand out" in " ".join(part.split())


def test_too_few_images_or_copies_of_one_are_not_looked_through(run: Path) -> None:
    setup = prepare(open_recipe(run), Terminal(quiet=True))
    said: list[str] = []
    setup.terminal.say = said.append  # type: ignore[method-assign]

    def with_images(pixels: np.ndarray) -> Setup:
        own = Images(pixels, setup.data.undivided.records[: len(pixels)])
        return replace(setup, data=replace(setup.data, undivided=own))

    pixels = np.asarray(setup.data.undivided.pixels[:12])
    assert suspicious_images(with_images(pixels[:9])) == []
    pixels[1:] = pixels[1]
    assert suspicious_images(with_images(pixels)) == []
    assert len(said) == 1
    assert "suspicious training images are not looked for" in said[0]


def test_robust_leaves_out_what_stands_out_as_if_it_were_not_there(run: Path) -> None:
    """The other run is made from the split of the first, which lacks the image that was left out."""
    folder = run.parents[1]
    train = ["train", str(folder / "doubt.yaml"), "--output", str(folder / "robust")]
    done = CliRunner().invoke(main, [*train, "-s", "expert.gaussian.robust=true"])
    assert done.exit_code == 0, done.output
    says = next(line for line in done.stderr.splitlines() if line.startswith("left out, for they stand out"))
    left_out = says.rpartition(": ")[2].split(", ")
    assert "009.png" in left_out
    first, plain = folder / "robust" / "doubt-001", folder / "robust" / "doubt-002"
    split = (first / "split.csv").read_text()
    assert not any(name in split for name in left_out)
    assert len(split.splitlines()) == 1 + 30 - len(left_out)
    assert json.loads((first / "summary.json").read_text())["suspicious"][0]["part"] == "left out"
    assert json.loads((first / "summary.json").read_text())["left_out"] == left_out
    report = " ".join((first / "report.html").read_text().split())
    assert f"{len(left_out)} that stood out had no part in the run: {', '.join(left_out)}" in report
    again = CliRunner().invoke(main, [*train, "-s", f"data.manifest={first / 'split.csv'}"])
    assert again.exit_code == 0, again.output
    left, right = (load_file(each / "detector.safetensors") for each in (first, plain))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    both = open_both(first, Terminal(quiet=True))  # refuses a split other than the run's
    assert len(both.setup.data.undivided) == 30


def test_robust_needs_images_enough_to_tell_what_stands_out(run: Path) -> None:
    setup = prepare(open_recipe(run), Terminal(quiet=True))
    pixels = np.asarray(setup.data.undivided.pixels[:12])
    for chosen, says in (
        (pixels[:9], "takes 10 at least, there are 9"),
        (pixels[:1].repeat(12, 0), "robust: "),
    ):
        batches = feature_batches(setup.encoder, chosen, setup.compute)
        with pytest.raises(DataError, match=says):
            usual_images(setup.data.split, batches, len(chosen), 0)


def test_features_of_many_images_are_not_held_in_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = prepare(open_recipe(run), Terminal(quiet=True))
    whole = suspicious_images(setup)
    monkeypatch.setattr(inference, "HELD", 29)
    monkeypatch.setattr(inference, "CHUNK", 7)
    batches = feature_batches(setup.encoder, setup.data.undivided.pixels, setup.compute)
    assert [len(levels[0]) for levels in batches()] == [7, 7, 7, 7, 2]
    again = suspicious_images(setup)
    assert [row["name"] for row in again] == [row["name"] for row in whole]
    assert [row["distance"] for row in again] == pytest.approx([row["distance"] for row in whole], rel=1e-4)


def test_pictures_go_to_the_tracker_by_rank() -> None:
    seen: list[tuple[str, int]] = []
    tracker = SimpleNamespace(image=lambda image, key, step: seen.append((key, int(image.max()))))
    records = tuple(Record(Path(), f"a/part {i}.png", "train") for i in range(3))
    images = Images(np.stack([np.full((4, 4, 3), i, np.uint8) for i in range(3)]), records)
    rows = [{"name": "a/part 2.png"}, {"name": "a/part 0.png"}]
    log_suspicious(rows, images, tracker)  # type: ignore[arg-type]
    assert seen == [("suspicious/1 part 2", 2), ("suspicious/2 part 0", 0)]


@pytest.mark.parametrize(
    ("count", "says"), [(0, ""), (1, "0.png stands out"), (4, "0.png, 1.png and 2 more stand")]
)
def test_words_name_those_that_stand_out_alone(count: int, says: str, tmp_path: Path) -> None:
    rows = [
        {"name": f"{i}.png", "part": "train", "distance": 9.0, "deviations": 4.0, "stands_out": i < count}
        for i in range(6)
    ]
    summary = RunSummary.model_validate({**PLAIN, "suspicious": rows})
    assert says in doubtful(summary)
    assert bool(doubtful(summary)) == bool(count)
    assert ("Look at 0.png" in run_note(summary, tmp_path)) == bool(count)
