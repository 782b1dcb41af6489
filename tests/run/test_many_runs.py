"""Several runs score the same images: each as it would alone, what they share loaded once."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.model import run_encoder
from anomaly_ft.run.many import open_each


def call(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=stdin)


@pytest.fixture(scope="session")
def adapter_runs(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with adapters on one backbone that learnt different things."""
    pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    save_file(
        timm.create_model("test_efficientnet", num_classes=0).state_dict(), folder / "weights.safetensors"
    )
    adapters = (
        f"encoder.weights={folder / 'weights.safetensors'}",
        "encoder.adapt=lora",
        "optimizer.lr=0.01",
        "expert.schedule.tolerance=0",
        "expert.schedule.epoch_steps=3",
        "expert.schedule.margin=99",
    )
    runs = []
    for seed, name in enumerate(("bolt", "nut")):
        recipe = write_recipe(
            folder / f"{name}.yaml", mvtec_folder, f"name={name}", f"seed={seed}", *adapters, *ONE_AUGMENTATION
        )
        assert call("train", recipe, "--output", folder).exit_code == 0
        runs.append(folder / f"{name}-001")
    return runs[0], runs[1]


@pytest.fixture(scope="session")
def larger_run(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same kind with images of another size and an encoder of its own."""
    folder = tmp_path_factory.mktemp("larger")
    changes = ("name=larger", "seed=3", "data.image_size=96", "data.resize=center-crop", *ONE_AUGMENTATION)
    recipe = write_recipe(folder / "larger.yaml", mvtec_folder, *changes)
    assert call("train", recipe, "--output", folder, "-s", "schedule.max_epochs=0").exit_code == 0
    return folder / "larger-001"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The encoders that were loaded."""
    load, names = run_encoder.load_encoder, list[str]()

    def counted(name: str, *arguments: Any, **more: Any) -> Any:
        names.append(name)
        return load(name, *arguments, **more)

    monkeypatch.setattr(run_encoder, "load_encoder", counted)
    return names


def test_each_run_writes_what_it_would_write_alone(
    small_run: Path, larger_run: Path, adapter_runs: tuple[Path, Path], mvtec_folder: Path, tmp_path: Path
) -> None:
    images, options = mvtec_folder / "test", ("--maps", "--regions")
    runs = [adapter_runs[0], small_run, adapter_runs[1], larger_run]
    also = [word for run in runs[1:] for word in ("--also", run)]
    together = call("predict", runs[0], images, *also, "--output", tmp_path / "all", *options)
    assert together.exit_code == 0, together.output
    for run in runs:
        alone = tmp_path / "alone" / run.name
        assert call("predict", run, images, "--output", alone, *options).exit_code == 0
        files = {path.relative_to(alone) for path in alone.rglob("*") if path.is_file()}
        assert len(files) > 10
        for file in files:
            assert (tmp_path / "all" / run.name / file).read_bytes() == (alone / file).read_bytes(), file
        assert f"{run.name}: 10 images, " in together.output
    assert {path.name for path in (tmp_path / "all").iterdir()} == {run.name for run in runs}


def test_runs_with_adapters_on_one_backbone_load_it_once(
    adapter_runs: tuple[Path, Path], loads: list[str]
) -> None:
    encoders = [run.detector.encoder for run in open_each(adapter_runs)]
    assert loads == ["test_efficientnet"]
    assert encoders[0] is encoders[1]


def test_an_adapter_is_taken_off_before_the_next_is_put_on(adapter_runs: tuple[Path, Path]) -> None:
    weights = []
    for runs in (adapter_runs, adapter_runs[1:]):
        *_, last = open_each(runs)
        weights.append(
            {name: value.clone() for name, value in last.detector.encoder.model.state_dict().items()}
        )
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_runs_that_kept_the_same_encoder_load_it_once(
    small_run: Path, larger_run: Path, tmp_path: Path, loads: list[str]
) -> None:
    other = Path(shutil.copytree(small_run, tmp_path / "other-001"))
    assert len([run.name for run in open_each([small_run, other])]) == 2
    assert len(loads) == 1
    about = json.loads((other / "detector.json").read_text())
    assert about["image_size"] == 64
    names = [run.name for run in open_each([small_run, larger_run, other])]
    assert names == ["small-001", "other-001", "larger-001"]  # those that share come together
    assert len(loads) == 3  # another size, other weights


def test_no_more_than_one_run_is_held(
    small_run: Path, larger_run: Path, adapter_runs: tuple[Path, Path], mvtec_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    load, held, alive = run_encoder.load_encoder, list[Any](), list[int]()

    def counted(*arguments: Any, **more: Any) -> Any:
        gc.collect()
        alive.append(sum(encoder() is not None for encoder in held))
        encoder = load(*arguments, **more)
        held.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr(run_encoder, "load_encoder", counted)
    also = [word for run in (adapter_runs[0], larger_run, adapter_runs[1]) for word in ("--also", run)]
    image = mvtec_folder / "test" / "good" / "000.png"
    assert call("predict", small_run, image, *also, "--output", tmp_path).exit_code == 0
    assert alive == [0, 0, 0]  # when the next is loaded, the one before is gone


def test_paths_on_stdin_are_read_once_for_all(
    small_run: Path, larger_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    lines = f"{mvtec_folder / 'test' / 'good' / '000.png'}\n{mvtec_folder / 'test' / 'hole' / '001.png'}\n"
    words = ("predict", small_run, "-", "--also", larger_run, "--output", tmp_path)
    assert call(*words, stdin=lines).exit_code == 0
    for run in (small_run, larger_run):
        rows = (tmp_path / run.name / "predictions.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows[1:]] == lines.split()


def test_maps_of_one_run_are_no_images_of_the_next(
    small_run: Path, larger_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(mvtec_folder / "test" / "good", tmp_path / "new"))
    words = ("predict", small_run, images, "--also", larger_run, "--output", images / "out", "--maps")
    result = call(*words)
    assert result.exit_code == 0
    assert result.output.count(": 6 images, ") == 2


def test_a_gate_of_several_runs_fails_when_one_of_them_finds_something(
    small_run: Path, larger_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    words = ("--also", larger_run, "--output", tmp_path / "out", "--fail-on-anomaly")
    assert call("predict", small_run, mvtec_folder / "test" / "hole", *words).exit_code == 3
    assert call("predict", small_run, tmp_path / "gone.png", *words).exit_code == 7


@pytest.fixture
def refused(small_run: Path, mvtec_folder: Path, tmp_path: Path) -> Callable[..., str]:
    def call_and_read(*words: object) -> str:
        result = call("predict", small_run, mvtec_folder / "test", *words)
        assert result.exit_code == 2
        assert not (tmp_path / "out").exists(), "nothing is written before it is refused"
        return " ".join(result.stderr.split())

    return call_and_read


def test_what_several_runs_cannot_do_is_refused_in_one_line(
    refused: Callable[..., str], small_run: Path, tmp_path: Path
) -> None:
    output = ("--output", tmp_path / "out")
    assert "--also needs a folder to write to: --output DIR" in refused("--also", small_run)
    assert f"{small_run} and {small_run} are both named small-001" in refused("--also", small_run, *output)
    unfinished = tmp_path / "half-001"
    unfinished.mkdir()
    assert f"{unfinished} is not a finished run: recipe.yaml, " in refused("--also", unfinished, *output)


def test_an_encoder_that_cannot_be_read_is_refused_before_anything_is_scored(
    refused: Callable[..., str], small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(small_run, tmp_path / "other-001"))
    (other / "encoder" / "more").mkdir()  # a folder is none of its files
    assert len([run.name for run in open_each([small_run, other])]) == 2

    def fail(*_: object) -> None:
        raise OSError("bad sector")

    monkeypatch.setattr(run_encoder.hashlib, "file_digest", fail)
    said = refused("--also", other, "--output", tmp_path / "out")
    assert f"{small_run / 'encoder'}: the stored encoder cannot be read (bad sector)" in said


def test_a_run_with_an_adapter_says_which_backbone_it_lacks_after_others_were_scored(
    small_run: Path, adapter_runs: tuple[Path, Path], mvtec_folder: Path, tmp_path: Path
) -> None:
    lost = Path(shutil.copytree(adapter_runs[0], tmp_path / "lost-001"))
    about = json.loads((lost / "adapter" / "backbone.json").read_text())
    (lost / "adapter" / "backbone.json").write_text(json.dumps(about | {"weights": "gone.safetensors"}))
    result = call("predict", small_run, mvtec_folder / "test", "--also", lost, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert f"needs its backbone test_efficientnet, weights from gone.safetensors, sha256 {about['sha256']}" in (
        result.stderr.replace("\n", " ")
    )
    assert len((tmp_path / "out" / "small-001" / "predictions.csv").read_text().splitlines()) == 11
