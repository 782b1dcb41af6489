"""Studies of runs: their tables, going on after a kill, and what is wrong with a run in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from anomaly_ft.analysis.subspaces import folds_of
from anomaly_ft.cli.main import main
from anomaly_ft.model.inference import pooled_features
from anomaly_ft.run import subspace
from anomaly_ft.run.both_encoders import images_of, open_both, pixels_of
from anomaly_ft.run.console import Terminal


def analyse(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["analyse", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> str:
    """The one line of a refusal."""
    done = CliRunner().invoke(main, ["analyse", *map(str, arguments)])
    assert done.exit_code == 2, done.output
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def subspaces(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("studies")
    analyse("subspace", small_run, "--output", output)
    return output / "small-001-studies" / "subspace"


def test_a_study_of_subspaces_has_a_row_for_each_encoder_level_and_subspace_and_figures(
    subspaces: Path,
) -> None:
    table = pd.read_csv(subspaces / "subspaces.csv")
    assert list(table.columns) == ["encoder", "level", "subspace", "dimensions", "auroc", "sem", "shrinkage"]
    assert table["level"].iloc[-1] == "sum"
    assert len(table.query("level == 'sum' and encoder == 'frozen'")) == 11
    assert not table.duplicated(["encoder", "level", "subspace"]).any()
    assert (subspaces / "subspaces.png").stat().st_size > 10_000


def test_its_numbers_are_those_of_scikit_learn_on_the_features_of_the_pretrained_encoder(
    small_run: Path, subspaces: Path
) -> None:
    both = open_both(small_run, Terminal(quiet=True))
    known = images_of(both.setup)
    levels = [
        np.concatenate(parts).astype(float)
        for parts in zip(
            *(pooled_features(both.setup.encoder, each, both.setup.compute) for each in pixels_of(both.setup)),
            strict=True,
        )
    ]
    aurocs = []
    for fold in folds_of(known.train, known.anomalous, seed=0):
        total = sum(np.sqrt(LedoitWolf().fit(x[fold.fit]).mahalanobis(x[fold.test])) for x in levels)
        aurocs.append(roc_auc_score(known.anomalous[fold.test], total))
    table = pd.read_csv(subspaces / "subspaces.csv").set_index(["encoder", "level", "subspace"])
    assert table.loc[("frozen", "sum", "all"), "auroc"] == pytest.approx(np.mean(aurocs), abs=1e-6)


def test_a_study_that_was_killed_goes_on_where_it_was(
    small_run: Path, subspaces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "small-001-studies" / "subspace"
    place.mkdir(parents=True)
    lines = (subspaces / "steps.jsonl").read_text().splitlines(keepends=True)
    (place / "steps.jsonl").write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    shutil.copy(subspaces / "study.json", place)
    seen: list[int] = []
    real = subspace.subspace_rows
    monkeypatch.setattr(
        subspace, "subspace_rows", lambda *a, number, **k: seen.append(number) or real(*a, number=number, **k)
    )
    analyse("subspace", small_run, "--output", tmp_path)
    assert len(seen) == len([line for line in lines if " fold " in line]) - 3
    assert (place / "subspaces.csv").read_text() == (subspaces / "subspaces.csv").read_text()


def test_a_finished_study_is_shown_again_without_computing(small_run: Path, subspaces: Path) -> None:
    before = (subspaces / "steps.jsonl").read_text()
    shown = json.loads(
        analyse("subspace", small_run, "--output", subspaces.parents[1], "--json").splitlines()[-1]
    )
    assert (subspaces / "steps.jsonl").read_text() == before
    assert {row["subspace"] for row in shown} >= {"all", "PCA 0.95", "NPCA 0.9999", "random as NPCA 0.99"}


def test_a_folder_of_a_study_with_other_settings_is_not_gone_on_with(small_run: Path, tmp_path: Path) -> None:
    place = tmp_path / "small-001-studies" / "subspace"
    place.mkdir(parents=True)
    (place / "study.json").write_text('{"study": "subspace", "run": "another", "folds": 5}')
    said = refused("subspace", small_run, "--output", tmp_path)
    assert "other settings (run 'another' -> 'small-001')" in said
    assert "--output" in said


@pytest.mark.parametrize("wrong", ["gone", "fewer", "no run", "no test"])
def test_a_run_that_cannot_be_studied_is_refused_in_one_line(
    small_run: Path, mvtec_folder: Path, tmp_path: Path, wrong: str
) -> None:
    run, data = tmp_path / "small-001", tmp_path / "data"
    shutil.copytree(small_run, run)
    shutil.copytree(mvtec_folder, data)
    options = ["--data", str(data), "--output", str(tmp_path)]
    if wrong == "gone":
        shutil.rmtree(data)
        said = "the images it was made from cannot be read"
    if wrong == "fewer":
        (data / "test" / "hole" / "001.png").unlink()
        said = "no longer holds the images the run was made from"
    if wrong == "no run":
        (run / "summary.json").unlink()
        said = "is not a finished run: summary.json is missing"
    if wrong == "no test":
        shutil.rmtree(data / "test")
        shutil.rmtree(data / "ground_truth")
        (run / "split.csv").unlink()
        said = "needs 5 good test images and a defective one, its data has 0 and 0"
    assert said in refused("subspace", run, *options)


def test_images_that_moved_are_named_with_data(
    small_run: Path, mvtec_folder: Path, tmp_path: Path, subspaces: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(mvtec_folder, moved)
    analyse("subspace", small_run, "--data", moved, "--output", tmp_path)
    again = tmp_path / "small-001-studies" / "subspace" / "subspaces.csv"
    assert again.read_text() == (subspaces / "subspaces.csv").read_text()
