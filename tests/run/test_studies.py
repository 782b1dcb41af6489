"""Studies of runs: their tables, going on after a kill, and what is wrong with a run in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from anomaly_ft.analysis.relevance import rank_correlation
from anomaly_ft.analysis.subspaces import folds_of
from anomaly_ft.cli.main import main
from anomaly_ft.errors import RunError
from anomaly_ft.model.inference import pooled_features
from anomaly_ft.run import explain, subspace
from anomaly_ft.run.both_encoders import gaussian_of, images_of, open_both, pixels_of
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.study import Row, open_study


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
    lines = (subspaces / ".steps.jsonl").read_text().splitlines(keepends=True)
    (place / ".steps.jsonl").write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
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
    before = (subspaces / ".steps.jsonl").read_text()
    shown = json.loads(
        analyse("subspace", small_run, "--output", subspaces.parents[1], "--json").splitlines()[-1]
    )
    assert (subspaces / ".steps.jsonl").read_text() == before
    assert {row["subspace"] for row in shown} >= {"all", "PCA 0.95", "NPCA 0.9999", "random as NPCA 0.99"}


def test_a_folder_of_a_study_with_other_settings_is_not_gone_on_with(small_run: Path, tmp_path: Path) -> None:
    place = tmp_path / "small-001-studies" / "subspace"
    place.mkdir(parents=True)
    (place / "study.json").write_text('{"study": "subspace", "run": "another", "folds": 5}')
    said = refused("subspace", small_run, "--output", tmp_path)
    assert "other settings (" in said
    assert "run 'another' -> 'small-001'" in said
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


def test_an_image_that_is_gone_is_not_said_to_be_a_full_disk(tmp_path: Path) -> None:
    def gone() -> list[Row]:
        (tmp_path / "000.png").read_bytes()
        return []

    with (
        pytest.raises(FileNotFoundError, match=r"000\.png"),
        open_study(tmp_path / "study", {}, Terminal(quiet=True)) as study,
    ):
        study.step("one", gone)


@pytest.mark.parametrize("file", [".steps.jsonl", "table.csv"])
def test_a_study_that_cannot_be_written_says_so(tmp_path: Path, file: str) -> None:
    said = r"study: cannot be written \(.*Make room"
    with open_study(tmp_path / "study", {}, Terminal(quiet=True)) as study:
        (study.folder / file).unlink(missing_ok=True)
        (study.folder / file).mkdir()
        with pytest.raises(RunError, match=said):
            study.step("one", list) if file == ".steps.jsonl" else study.write({"table": [{"a": 1}]}, {})


@pytest.fixture(scope="module")
def explained(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("explained")
    shown = analyse("shortcuts", small_run, "--output", output, "--images", 3, "--steps", 4, "--json")
    assert json.loads(shown.splitlines()[-1])["table"]
    return output / "small-001-studies" / "shortcuts"


def test_an_explained_run_says_of_each_encoder_and_baseline_where_its_relevance_lies(explained: Path) -> None:
    table, images = pd.read_csv(explained / "shortcuts.csv"), pd.read_csv(explained / "images.csv")
    assert set(table["baseline"]) == {"mean good image", "blurred image"}
    assert (table["masks"] == 3).all()
    assert table["area"].to_numpy() == pytest.approx((20 / 64) ** 2, rel=0.2)
    assert table["completeness_error"].notna().all()
    assert table["same_random"].abs().max() < 0.9, "maps of random weights are others"
    own = images.query("anomalous and encoder == 'frozen' and baseline == 'blurred image'")
    row = table.query("encoder == 'frozen' and baseline == 'blurred image'").iloc[0]
    assert row["inside"] == pytest.approx(own["inside"].mean())
    assert row["inside_over_area"] == pytest.approx(own["inside"].mean() / own["area"].mean())
    assert (explained / "relevance.png").stat().st_size > 10_000


def test_maps_are_compared_with_those_of_random_weights_against_the_same_baseline(
    small_run: Path, explained: Path
) -> None:
    images = pd.read_csv(explained / "images.csv").query("anomalous")
    both = open_both(small_run, Terminal(quiet=True))
    explainer = explain._Explainer(both, gaussian_of(small_run, both.run, "this test"), 4)
    names = [record.name for record in explainer.both.setup.data.test.records]
    row = images.query("encoder == 'frozen'").iloc[0]
    i = names.index(row["image"])
    for baseline in ("mean good image", "blurred image"):
        maps = [explainer.attribution(name, i, baseline).maps[0] for name in ("frozen", "random weights")]
        known = images.query("encoder == 'frozen' and image == @row.image and baseline == @baseline").iloc[0]
        assert known["same_random"] == pytest.approx(rank_correlation(*maps), abs=1e-3)


def test_levels_share_the_distance_and_each_has_carriers(explained: Path) -> None:
    levels = pd.read_csv(explained / "levels.csv")
    for _, own in levels.groupby("encoder"):
        assert own["share_defective"].sum() == pytest.approx(1)
        assert (own["carriers_good"] >= 1).all()
        assert (own["carriers_defective"] <= own["features"]).all()


def test_an_explanation_that_was_killed_goes_on_where_it_was(
    small_run: Path, explained: Path, tmp_path: Path
) -> None:
    place = tmp_path / "small-001-studies" / "shortcuts"
    shutil.copytree(explained, place)
    lines = (place / ".steps.jsonl").read_text().splitlines(keepends=True)
    (place / ".steps.jsonl").write_text("".join(lines[:2]))
    for table in place.glob("*.csv"):
        table.unlink()
    analyse("shortcuts", small_run, "--output", tmp_path, "--images", 3, "--steps", 4)
    assert (place / ".steps.jsonl").read_text().splitlines(keepends=True)[:2] == lines[:2]
    again, before = (pd.read_csv(folder / "images.csv") for folder in (place, explained))
    assert again["inside"].to_numpy() == pytest.approx(before["inside"].to_numpy(), rel=1e-3, nan_ok=True)


@pytest.mark.parametrize("study", ["subspaces", "explained"])
@pytest.mark.parametrize("changed", ["detector", "split"])
def test_steps_of_a_run_that_had_the_same_name_are_not_taken_for_those_of_another(
    small_run: Path,
    mvtec_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    study: str,
    changed: str,
) -> None:
    before: Path = request.getfixturevalue(study)
    run, data = tmp_path / "small-001", tmp_path / "data"
    shutil.copytree(before, tmp_path / "small-001-studies" / before.name)
    shutil.copytree(small_run, run)
    shutil.copytree(mvtec_folder, data)
    if changed == "detector":
        tensors = load_file(run / "detector.safetensors")
        fitted = {name: 1.001 * tensor for name, tensor in tensors.items() if "whitening" in name}
        assert fitted
        save_file(tensors | fitted, run / "detector.safetensors")
    else:
        (data / "test" / "hole" / "001.png").unlink()
        (run / "split.csv").unlink()
    effort = ["--images", 3, "--steps", 4] if study == "explained" else []
    said = refused(before.name, run, "--data", data, "--output", tmp_path, *effort)
    assert f"holds a study with other settings ({changed} '" in said


def test_without_masks_the_frame_is_measured_and_the_user_is_told(
    mvtec_folder: Path, small_run: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(mvtec_folder, data)
    shutil.rmtree(data / "ground_truth")
    run = tmp_path / "small-001"
    shutil.copytree(small_run, run)
    (run / "split.csv").unlink()  # it names the masks
    options = ["--data", data, "--output", tmp_path / "out", "--images", 1, "--steps", 1]
    done = CliRunner().invoke(main, ["analyse", "shortcuts", str(run), *map(str, options)])
    assert done.exit_code == 0, done.output
    assert "has no masks" in done.stderr
    table = pd.read_csv(tmp_path / "out" / "small-001-studies" / "shortcuts" / "shortcuts.csv")
    assert table["inside"].isna().all()
    assert table["frame_defective"].notna().all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layout", "mvtec"], "is a run, which --layout has nothing to do with"),
        (["--images", "0"], "expected 1 or more, got 0 and 24"),
    ],
)
def test_what_does_not_fit_a_run_is_refused(small_run: Path, options: list[str], says: str) -> None:
    assert says in refused("shortcuts", small_run, *options)


def test_what_does_not_fit_a_folder_of_images_is_refused(mvtec_folder: Path) -> None:
    said = refused("shortcuts", mvtec_folder, "--steps", 3)
    assert "is a folder of images, which --steps has nothing to do with" in said


def test_a_study_joins_the_run_in_mlflow(
    mvtec_folder: Path, small_run: Path, tmp_path: Path, store: str
) -> None:
    from mlflow.tracking import MlflowClient

    recipe, options = tmp_path / "tracked.yaml", ["-s", "tracking.mlflow=true", "-s", f"tracking.uri={store}"]
    shutil.copy(small_run / "recipe.yaml", recipe)
    more = ["-s", "schedule.max_epochs=0", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, ["train", str(recipe), *options, *more])
    assert done.exit_code == 0, done.output
    analyse("subspace", tmp_path / "small-001")
    client = MlflowClient(store)
    known = json.loads((tmp_path / "small-001" / "summary.json").read_text())["mlflow_run_id"]
    names = {artifact.path for artifact in client.list_artifacts(known, "subspace")}
    assert {"subspace/subspaces.csv", "subspace/subspaces.png"} <= names
    assert client.get_run(known).info.status == "FINISHED"
    assert not list((tmp_path / "small-001").glob("*subspace*")), "nothing is written into the run"
