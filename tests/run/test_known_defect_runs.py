"""Known defects in a run: results apart, the same bits after a kill, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from settings import ONE_AUGMENTATION, textures, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Record
from anomaly_ft.errors import RunError
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.outputs import Outputs, Predictions
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.begin import shown_digests, write_start
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.known_defects import summarise_known
from anomaly_ft.run.known_text import known_sentences
from anomaly_ft.run.resume import refuse_changes
from anomaly_ft.run.setup import prepare

SCORES = np.array([0.1, 0.4, 0.3, 0.9, 0.2, 0.8])


def said(scores: np.ndarray) -> Predictions:
    return Outputs({"pooled": scores}, {}, scores[:0], "pooled", "dense")


def records(*kinds: str) -> tuple[Record, ...]:
    return tuple(Record(Path(), f"{i}.png", "test", kind) for i, kind in enumerate(kinds))


def known(*kinds: str) -> Images:
    return Images(np.zeros((len(kinds), 4, 4, 3), np.uint8), records(*kinds))


def test_kinds_that_were_seen_and_others_are_measured_apart() -> None:
    test = records("good", "good", "dent", "dent", "rust", "anomalous")
    summary = summarise_known(known("dent", "chip"), test, said(SCORES[::-1]), said(SCORES))
    assert summary is not None
    assert summary.seen is not None
    assert summary.unseen is not None
    assert (summary.images, summary.kinds, summary.not_tested) == (2, ("chip", "dent"), ("chip",))
    assert (summary.seen.kinds, summary.seen.images) == (("dent",), 2)
    assert summary.seen.image_auroc == image_auroc(np.array([0, 0, 1, 1], bool), SCORES[:4])
    assert (summary.unseen.kinds, summary.unseen.images) == (("rust",), 1)  # nobody knows what the last one is
    assert summary.unseen.image_auroc == image_auroc(np.array([0, 0, 1], bool), SCORES[[0, 1, 4]])
    assert "no number of this run is a one-class result" in "".join(known_sentences(summary))


def test_without_known_defects_nothing_is_said() -> None:
    assert summarise_known(None, records("good"), None, said(SCORES[:1])) is None
    assert not list(known_sentences(None))


def test_without_test_images_of_a_kind_there_is_no_number_of_it() -> None:
    summary = summarise_known(known("dent"), records("good", "anomalous"), None, said(SCORES[:2]))
    assert summary is not None
    assert summary.seen is summary.unseen is None


def train(folder: Path, root: Path, *changes: str) -> Result:
    recipe = write_recipe(folder / "known.yaml", root, "name=known", *ONE_AUGMENTATION, *changes)
    return CliRunner().invoke(main, ["train", str(recipe), "--output", str(folder / "runs")])


@pytest.fixture
def defects(tmp_path: Path) -> Path:
    wrong = textures(2, 64, seed=9)
    wrong[:, 5:25, 5:25] = 0
    write_images(tmp_path / "known" / "hole", wrong)
    return tmp_path / "known"


def test_a_run_tells_of_known_defects_in_summary_terminal_and_report(
    mvtec_folder: Path, tmp_path: Path, defects: Path
) -> None:
    result = train(tmp_path, mvtec_folder, f"data.known_defects={defects}")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "known-001"
    told = json.loads((folder / "summary.json").read_text())["known_defects"]
    assert (told["images"], told["kinds"], told["unseen"]) == (2, ["hole"], None)
    assert told["seen"]["images"] == 4
    assert "known    2 defects, which training keeps far away" in result.output
    assert "one-class result" in result.output
    assert "2 known defects (hole)" in (folder / "report.html").read_text()


def test_a_test_image_is_refused_as_a_known_defect(mvtec_folder: Path, tmp_path: Path) -> None:
    result = train(tmp_path, mvtec_folder, f"data.known_defects={mvtec_folder / 'test' / 'hole'}")
    assert result.exit_code == 2
    assert "also a test image" in result.output


def test_what_a_recipe_cannot_mean_is_refused(mvtec_folder: Path, tmp_path: Path, defects: Path) -> None:
    result = train(tmp_path, mvtec_folder, f"data.known_defects={tmp_path / 'nowhere'}")
    assert result.exit_code == 2
    assert "data.known_defects: folder does not exist" in result.output
    result = train(tmp_path, mvtec_folder, f"data.known_defects={defects}", "model.kind=filter")
    assert result.exit_code == 2
    assert "data.known_defects: of model.kind: gaussian alone" in result.output


def test_a_run_is_not_resumed_with_other_known_defects(
    mvtec_folder: Path, tmp_path: Path, defects: Path
) -> None:
    changes = (*ONE_AUGMENTATION, f"data.known_defects={defects}")
    recipe = read_recipe(write_recipe(tmp_path / "known.yaml", mvtec_folder, *changes))
    write_start(tmp_path, prepare(recipe, Terminal()))
    refuse_changes(tmp_path, prepare(recipe, Terminal()))
    write_images(defects / "hole", textures(2, 64, seed=8))
    with pytest.raises(RunError, match=r"begun with other images in .*known \(data\.known_defects\)"):
        refuse_changes(tmp_path, prepare(recipe, Terminal()))


def test_a_run_without_known_defects_is_shown_no_other_images(mvtec_folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "plain.yaml", mvtec_folder, *ONE_AUGMENTATION))
    assert shown_digests(prepare(recipe, Terminal())) == {}
