"""A filter goes through every command as the other kind does: no command knows which kind it has."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from settings import ONE_AUGMENTATION, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.deploy.served import ServedDetector
from anomaly_ft.errors import DivergedError, RunError
from anomaly_ft.model.filter.detector import FilterDetector
from anomaly_ft.model.loading import load_detector, load_run
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.begin import write_start
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.explain import Effort, explain_run
from anomaly_ft.run.folder import start_folder
from anomaly_ft.run.resume import refuse_changes
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.subspace import study_subspaces
from anomaly_ft.run.train import make_method, train

STRICT = ("validation.augmentations=[line]", ONE_AUGMENTATION[1])
FILTER = (
    "model.kind=filter", "name=filter", "expert.filter.width=16", "expert.filter.grid=4",
    "schedule.max_epochs=2",
    "schedule.max_steps=4", "expert.schedule.epoch_steps=2", "optimizer.lr=3e-3", "optimizer.batch_size=4",
    "gaussian.position=free", "variation.preset=none", *STRICT,
)  # fmt: skip
PIXELS = ("encoder.name=pixels", "name=pixels", "data.image_size=32", "expert.filter.grid=auto")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`finished(NAME, CHANGES)`: the folder of a run that is trained once."""
    folder, made = tmp_path_factory.mktemp("filters"), dict[str, Path]()

    def of(name: str, *changes: str) -> Path:
        if name not in made:
            recipe = write_recipe(folder / f"{name}.yaml", mvtec_folder, *FILTER, *changes)
            result = run("train", recipe, "--output", folder / "runs")
            assert result.exit_code == 0, result.output
            made[name] = folder / "runs" / f"{name}-001"
        return made[name]

    return of


@pytest.fixture(scope="module")
def of_features(finished: Callable[..., Path]) -> Path:
    return finished("filter")


@pytest.fixture(scope="module")
def of_pixels(finished: Callable[..., Path]) -> Path:
    return finished("pixels", *PIXELS)


def summary(folder: Path) -> dict[str, object]:
    text: dict[str, object] = json.loads((folder / "summary.json").read_text())
    return text


def test_a_filter_of_features_has_the_frozen_encoder_beside_it(of_features: Path) -> None:
    about = summary(of_features)
    assert about["score"] == "residual"
    assert about["frozen_test"] is not None
    assert about["statistics"] == "refit"
    assert about["level_weights"] == about["chi_square"] == []
    detector = load_detector(of_features)
    assert isinstance(detector, FilterDetector)
    assert np.isfinite(pd.read_csv(of_features / "predictions.csv")["residual_score"]).all()


def test_a_filter_of_pixels_has_nothing_beside_it_and_never_keeps_epoch_0(of_pixels: Path) -> None:
    about = summary(of_pixels)
    assert about["best_epoch"] in (1, 2)
    assert about["frozen_test"] is None
    assert about["test"] is not None
    columns = pd.read_csv(of_pixels / "predictions.csv").columns
    assert not any(name.startswith("frozen") for name in columns)
    rows = about["variation"]["rows"]  # type: ignore[index]
    assert {row["frozen_rejected"] for row in rows} == {None}
    report = (of_pixels / "report.html").read_text()
    assert "Frozen against" not in report
    assert "timm.create_model" not in report


@pytest.mark.parametrize("kind", ["of_features", "of_pixels"])
def test_what_is_restored_scores_as_what_was_trained(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    table = pd.read_csv(folder / "predictions.csv")
    root = json.loads((folder / "summary.json").read_text())["data"]["root"]
    result = run("predict", folder, *(Path(root) / path for path in table["path"][:3]), "--format", "jsonl")
    assert result.exit_code == 0, result.output
    scores = [json.loads(line)["score"] for line in result.stdout.splitlines()]
    assert scores == pytest.approx(table["score"][:3].tolist(), rel=1e-4)


def test_a_filter_is_evaluated_and_served(of_pixels: Path, tmp_path: Path) -> None:
    result = run("evaluate", of_pixels, "--output", tmp_path / "again", "--json")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout.splitlines()[-1])
    first = summary(of_pixels)["test"]
    assert again["test"]["image_auroc"] == pytest.approx(first["image_auroc"])  # type: ignore[index]
    context = SimpleNamespace(artifacts={"detector.json": str(of_pixels / "detector.json")}, model_config={})
    served = ServedDetector()
    served.load_context(context)
    table = pd.read_csv(of_pixels / "predictions.csv")
    images = pd.DataFrame({"image": [str(Path(again["data"]["root"]) / table["path"][0])]})
    answer = served.predict(context, images, {"map": True})
    assert answer["score"][0] == pytest.approx(table["score"][0], rel=1e-4)
    assert np.shape(answer["map"][0]) == (32, 32)


def test_regions_of_a_filters_map_are_written(of_pixels: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    where = ["--output", tmp_path, "--regions", "--epsilon", 1000]
    result = run("predict", of_pixels, mvtec_folder / "test" / "hole", *where)
    assert result.exit_code == 0, result.output
    regions = pd.read_csv(tmp_path / "regions.csv")
    assert len(regions) >= 4
    assert regions["nfa"].between(0, 1000).all()


@pytest.mark.parametrize("form", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_exports_agree_with_the_filter(of_features: Path, of_pixels: Path, tmp_path: Path, form: str) -> None:
    folder = of_features if form == "onnx" else of_pixels
    result = run("export", folder, "--format", form, "--output", tmp_path / form)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / form / "parity.json").read_text())["score"]["max_relative"] < 1e-3
    readme = (tmp_path / form / "README.md").read_text()
    assert form == "onnx" or "pixels, with a filter trained with anomaly_ft" in readme


def test_there_is_no_encoder_to_export_of_pixels(of_pixels: Path, tmp_path: Path) -> None:
    result = run("export", of_pixels, "--format", "timm", "--output", tmp_path / "timm")
    assert result.exit_code == 2
    assert "--format timm" in result.output
    assert "works on pixels; use onnx, pt2 or openvino" in result.output


def test_a_run_that_is_resumed_ends_with_the_same_bits(
    mvtec_folder: Path, of_features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", mvtec_folder, *FILTER, "expert.runtime.checkpoint_minutes=0")
    from anomaly_ft.finetune import loop

    with monkeypatch.context() as patch:
        calls = iter(range(100))
        whole = loop._backward

        def killed(*arguments: object) -> object:
            if next(calls) == 3:  # within the second epoch
                raise KeyboardInterrupt
            return whole(*arguments)  # type: ignore[arg-type]

        patch.setattr(loop, "_backward", killed)
        assert run("train", recipe, "--output", tmp_path / "runs").exit_code != 0
    refused = write_recipe(
        tmp_path / "other.yaml", mvtec_folder, *FILTER, "expert.runtime.checkpoint_minutes=0",
        "expert.filter.clean_share=0.5",
    )  # fmt: skip
    result = run("train", refused, "--output", tmp_path / "runs", "--resume")
    assert result.exit_code == 2
    assert "expert.filter.clean_share: 0.25 -> 0.5" in result.output
    result = run("train", recipe, "--output", tmp_path / "runs", "--resume")
    assert result.exit_code == 0, result.output
    again, once = (
        load_file(folder / "detector.safetensors") for folder in (tmp_path / "runs/filter-001", of_features)
    )
    assert all(np.array_equal(again[name], once[name]) for name in once)
    assert (tmp_path / "runs/filter-001/history.jsonl").read_text() == (
        of_features / "history.jsonl"
    ).read_text()


def test_a_run_is_not_resumed_with_other_textures(mvtec_folder: Path, tmp_path: Path) -> None:
    textures = tmp_path / "textures"
    write_images(textures, np.full((2, 16, 16, 3), 200, np.uint8))
    changes = (*FILTER, f"filter.textures={textures}", "schedule.max_epochs=0")
    setup = prepare(read_recipe(write_recipe(tmp_path / "r.yaml", mvtec_folder, *changes)), Terminal())
    partial = start_folder(tmp_path / "runs", "filter")
    write_start(partial, setup)
    refuse_changes(partial, setup)
    write_images(textures, np.full((1, 16, 16, 3), 90, np.uint8))
    with pytest.raises(RunError, match=r"begun with other images in .*textures \(filter\.textures\)"):
        refuse_changes(partial, setup)


def test_runs_of_both_kinds_stand_in_one_table(of_features: Path, of_pixels: Path, small_run: Path) -> None:
    result = run("compare", of_features, of_pixels, small_run)
    assert result.exit_code == 0, result.output
    assert "model.kind" in result.output.replace("\u200b", "")


def test_studies_of_gaussians_refuse_a_filter_in_one_line(of_features: Path) -> None:
    with pytest.raises(RunError, match=r"an explanation of a run looks into distances .* another model\.kind"):
        explain_run(of_features, Terminal(), Effort())
    with pytest.raises(RunError, match=r"a study of subspaces looks into distances .* another model\.kind"):
        study_subspaces(of_features, Terminal())


def test_a_net_that_reaches_beyond_its_image_is_refused_before_anything_is_written(
    mvtec_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", mvtec_folder, *FILTER, "expert.filter.reach=8")
    result = run("train", recipe, "--output", tmp_path / "runs")
    assert result.exit_code == 2
    assert "expert.filter.reach: a dilation of 8 does not fit" in result.output
    assert not list((tmp_path / "runs").glob("*")) or not list((tmp_path / "runs").glob(".*partial"))


def test_a_first_epoch_that_diverges_leaves_nothing_to_keep(mvtec_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", mvtec_folder, *FILTER, *PIXELS, "optimizer.lr=1e6")
    with pytest.raises(DivergedError, match=r"the first epoch diverged.*lower optimizer\.lr"):
        train(prepare(read_recipe(recipe), Terminal()), tmp_path / "runs")


def test_positions_are_chosen_for_a_filter_too(mvtec_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", mvtec_folder, *FILTER, "gaussian.position=auto")
    method = make_method(prepare(read_recipe(recipe), Terminal()))
    method.fit()
    assert method.position is not None
    assert method.position.position in ("fixed", "free")


def test_files_that_do_not_fit_together_are_named(of_features: Path, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(of_features, tmp_path / "broken")
    description = json.loads((broken / "detector.json").read_text())
    description["settings"]["width"] = 32
    (broken / "detector.json").write_text(json.dumps(description))
    with pytest.raises(RunError, match="do not fit together"):
        load_run(broken)
