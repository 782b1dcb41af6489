"""`anomaly-ft export`: every format is written once, compared, and used by the program of its README."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.deploy import formats
from anomaly_ft.deploy.card import program
from anomaly_ft.deploy.formats import WRITERS, convert_to_openvino
from anomaly_ft.model.loading import LoadedRun, load_run

FORMATS = [*WRITERS, "onnx --uint8"]
DETECTORS = [form for form in FORMATS if form.split()[0] in ("onnx", "pt2", "openvino")]
# runs each folder's program as it stands, in one process that cannot have this package
DRIVER = """
import contextlib, io, json, os, re, runpy, sys
sys.modules["anomaly_ft"] = None
image, *folders = sys.argv[1:]
said = {}
for folder in folders:
    os.chdir(folder)
    found = re.search(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL)
    open("../program.py", "w").write(found[1])
    sys.argv = ["program.py", image]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path("../program.py", run_name="__main__")
    said[folder] = out.getvalue()
print(json.dumps(said))
"""


def call(run: Path, form: str, output: Path, *more: object) -> Result:
    arguments = ["export", run, "--format", *form.split(), "--output", output, *more]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def exports(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One export of each format, all made by one process."""
    folder = tmp_path_factory.mktemp("exports")
    made = {}
    for form in FORMATS:
        made[form] = folder / form.replace(" --", "-")
        result = call(small_run, form, made[form])
        assert result.exit_code == 0, result.output
    return made


@pytest.fixture(scope="module")
def run(small_run: Path) -> LoadedRun:
    return load_run(small_run, device="cpu", precision="fp32", channels_last=False)


@pytest.fixture(scope="session")
def image(mvtec_folder: Path) -> Path:
    return mvtec_folder / "test" / "hole" / "001.png"


@pytest.fixture(scope="module")
def expected(run: LoadedRun, image: Path) -> tuple[float, bool]:
    """What the detector says about `image`."""
    with torch.inference_mode():
        pixels = run.compute.batch(np.stack([run.decoder(image)]))
        score = float(run.detector(pixels).scores)
    return score, score > run.point.threshold


@pytest.fixture(scope="session")
def said(exports: dict[str, Path], image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the programs of the READMEs print about `image`."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-c", DRIVER, str(image), *map(str, exports.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, check=False)
    assert done.returncode == 0, done.stderr
    by_folder = json.loads(done.stdout)
    return {form: by_folder[str(folder)] for form, folder in exports.items()}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_agrees_with_the_detector_on_the_runs_own_test_images(
    form: str, exports: dict[str, Path]
) -> None:
    parity = json.loads((exports[form] / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["images"] == 10
    assert parity["score"]["max_relative"] <= 1e-3
    assert parity["map"]["max_relative"] <= 1e-3
    assert parity["decisions_changed_outside_band"] == 0
    assert (parity["levels"] is None) == (form in DETECTORS)
    assert sorted(exports[form].parent.glob(".*")) == []


@pytest.mark.parametrize("form", DETECTORS)
def test_the_program_in_the_readme_gives_the_detectors_score_without_this_package(
    form: str, said: dict[str, str], expected: tuple[float, bool]
) -> None:
    score, decision = said[form].split()
    assert float(score) == pytest.approx(expected[0], rel=1e-3)
    assert decision == ("anomalous" if expected[1] else "normal")


@pytest.mark.parametrize("form", ["timm", "encoder-onnx", "encoder-pt2"])
def test_the_program_in_the_readme_gives_the_levels_without_this_package(
    form: str, said: dict[str, str], run: LoadedRun
) -> None:
    shapes = re.findall(r"\d+(?:, \d+){3}", said[form])
    widths = [int(shape.split(", ")[1]) for shape in shapes]
    if form == "timm":  # timm's stages are some of the levels
        assert "torch.Size([1, 256])" in said[form]
        assert set(widths) <= set(run.detector.encoder.widths)
        assert len(widths) > 2
    else:
        assert widths == list(run.detector.encoder.widths)


def test_twice_and_in_another_order_gives_identical_bytes(
    exports: dict[str, Path], small_run: Path, tmp_path: Path
) -> None:
    for form in ("pt2", "onnx", "encoder-pt2", "encoder-onnx", "timm"):
        assert call(small_run, form, tmp_path / form).exit_code == 0
        files = sorted(path.name for path in exports[form].iterdir())
        assert files == sorted(path.name for path in (tmp_path / form).iterdir())
        for name in files:
            assert (tmp_path / form / name).read_bytes() == (exports[form] / name).read_bytes(), (form, name)


def test_openvino_files_are_made_from_the_onnx_graph_and_nothing_else(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("again", "and again"):  # a process numbers what it reads; the files must not show it
        (tmp_path / name).mkdir()
        convert_to_openvino(exports["onnx"] / "detector.onnx", tmp_path / name / "detector.xml")
        for file in ("detector.xml", "detector.bin"):
            assert (tmp_path / name / file).read_bytes() == (exports["openvino"] / file).read_bytes(), file


def test_an_onnx_file_is_checked_names_its_parts_and_knows_no_source_files(
    exports: dict[str, Path], run: LoadedRun
) -> None:
    path = exports["onnx"] / "detector.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    session = onnxruntime.InferenceSession(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [(i.name, i.shape, i.type) for i in inputs] == [("image", ["batch", 3, 64, 64], "tensor(float)")]
    assert [(o.name, o.shape, o.type) for o in outputs] == [
        ("score", ["batch"], "tensor(float)"),
        ("map", ["batch", 64, 64], "tensor(float)"),
        ("decision", ["batch"], "tensor(bool)"),
    ]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["threshold"]) == run.point.threshold
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406]
    for tensor in [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]:
        tensor.ClearField("raw_data")  # numbers that may look like letters
    assert b".py" not in model.SerializeToString()


@pytest.mark.parametrize("form", ["pt2", "encoder-pt2"])
def test_no_batch_norm_is_left_in_a_graph(exports: dict[str, Path], form: str) -> None:
    (path,) = exports[form].glob("*.pt2")
    called = [str(node.target) for node in torch.export.load(path).graph.nodes]
    assert any("conv" in name for name in called)
    assert not any("batch_norm" in name for name in called)


def test_uint8_goes_in_as_pillow_gives_it(exports: dict[str, Path], image: Path, expected: tuple) -> None:
    session = onnxruntime.InferenceSession(exports["onnx --uint8"] / "detector.onnx")
    pixels = np.asarray(Image.open(image).convert("RGB"))
    score, small, decision = session.run(None, {"image": np.stack([pixels, pixels // 2, pixels])})
    assert score[[0, 2]] == pytest.approx(expected[0], rel=1e-3)
    assert decision[0] == expected[1]
    assert small.shape == (3, 64, 64)


def test_a_timm_folder_loads_as_model_and_as_stages_and_has_the_runs_preprocessing(
    exports: dict[str, Path], run: LoadedRun, image: Path
) -> None:
    where = f"local-dir:{exports['timm']}"
    stages = timm.create_model(where, pretrained=True, features_only=True).eval()
    config = timm.data.resolve_model_data_config(stages)
    assert config["input_size"] == (3, 64, 64)
    assert (config["crop_mode"], config["crop_pct"], config["interpolation"]) == ("squash", 1.0, "bicubic")
    pixels = timm.data.create_transform(**config)(Image.open(image).convert("RGB"))[None]
    with torch.inference_mode():
        own = run.detector.encoder(run.compute.batch(np.stack([run.decoder(image)])))
        named = dict(zip(run.detector.encoder.levels, own, strict=True))
        for info, level in zip(stages.feature_info, stages(pixels), strict=True):
            assert torch.allclose(level, named[info["module"]], atol=1e-4), info["module"]


def test_an_export_that_does_not_agree_is_deleted_and_the_command_fails(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> formats.Computes:
        computes = formats.write_timm(*arguments)
        return lambda pixels: [1.01 * level for level in computes(pixels)]

    monkeypatch.setitem(WRITERS, "timm", wrong)
    result = call(small_run, "timm", tmp_path / "export")
    assert result.exit_code == 6
    assert "does not agree with the detector and was deleted: on 10 images scores differ by" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_breaks_leaves_nothing(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: LoadedRun, folder: Path, raw: bool) -> formats.Computes:
        (folder / "half").write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setitem(WRITERS, "timm", broken)
    result = call(small_run, "timm", tmp_path / "export")
    assert result.exit_code == 2
    assert "cannot be written (no space left on device); nothing is left of it" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = call(small_run, "timm", tmp_path)
    assert result.exit_code == 2
    assert f"--output {tmp_path}: exists already; name a new folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_as_good_as_none(small_run: Path, tmp_path: Path, image: Path) -> None:
    result = call(
        small_run, "timm", tmp_path, "--images", image, "--images", image.parent, "--count", 3, "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["images"] == 3


def test_without_images_to_compare_on_there_is_no_export(small_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(small_run, tmp_path / "run"))
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(re.sub(r"root: .*", "root: /no/such/folder", recipe))
    result = call(moved, "timm", tmp_path / "export")
    assert result.exit_code == 2
    assert "compared on real images; name some with --images" in result.stderr
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    result = call(moved, "timm", tmp_path / "export", "--images", broken)
    assert result.exit_code == 2
    assert "not one image to compare the export on could be read" in result.stderr
    assert not (tmp_path / "export").exists()


def test_a_missing_library_is_named_with_its_extra(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    result = call(small_run, "encoder-onnx", tmp_path / "export")
    assert result.exit_code == 2
    assert "onnxscript, onnxruntime not installed; pip install onnx onnxscript onnxruntime" in result.stderr


def test_the_command_offers_every_format() -> None:
    option = next(p for p in main.commands["export"].params if p.name == "form")
    assert list(option.type.choices) == list(WRITERS)


@pytest.mark.parametrize("policy", ["stretch", "center-crop", "letterbox"])
def test_programs_resize_as_the_run_does(policy: str, run: LoadedRun, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 131, 3), np.uint8)).save(
        tmp_path / "wide.png"
    )
    decoder = type(run.decoder)(64, policy)
    code = program(LoadedRun(run.folder, run.detector, run.point, run.compute, decoder), "onnx", raw=True)
    until = code[: code.index("session =")].replace("import onnxruntime", "").replace("sys.argv[1]", "path")
    names: dict[str, Any] = {"path": tmp_path / "wide.png"}
    exec(until, names)
    assert np.array_equal(names["pixels"][0], decoder(tmp_path / "wide.png"))


@pytest.mark.parametrize("form", ["onnx", "pt2", "encoder-onnx", "encoder-pt2"])
def test_an_encoder_that_cannot_be_converted_is_named_in_one_line(
    form: str, small_run: Path, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("step 2/3 failed\nread the report") from ValueError(
            "Cannot view a tensor\nso and so"
        )

    onnx_only = "onnx" in form
    monkeypatch.setattr(torch.onnx if onnx_only else torch.export, "export", fail)
    result = call(small_run, form, tmp_path / "export", "--images", image)
    assert result.exit_code == 2
    target, others = ("ONNX", "pt2, encoder-pt2 or timm") if onnx_only else ("torch.export", "timm")
    assert (
        f"EfficientNet cannot be converted to {target} (Cannot view a tensor); use {others}\n" in result.stderr
    )
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_maxvit_which_onnx_cannot_hold_is_refused_in_one_line_that_helps(
    mvtec_folder: Path, tmp_path: Path
) -> None:
    maxvit = ("encoder.name=maxvit_rmlp_pico_rw_256", "name=maxvit", "schedule.max_epochs=0")
    recipe = write_recipe(tmp_path / "r.yaml", mvtec_folder, *maxvit, *ONE_AUGMENTATION)
    trained = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path)])
    assert trained.exit_code == 0, trained.output
    result = call(tmp_path / "maxvit-001", "onnx", tmp_path / "onnx", "--count", 2)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert re.search(r"MaxxVit cannot be converted to ONNX \(.+\); use pt2, encoder-pt2 or timm$", line)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "onnx").exists()
    right = call(tmp_path / "maxvit-001", "timm", tmp_path / "timm", "--count", 2)
    assert right.exit_code == 0, right.output
