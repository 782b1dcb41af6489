import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from settings import detector_settings

from anomaly_ft import __version__
from anomaly_ft.errors import AnomalyFtError, EncoderError, RunError
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.loading import load_detector
from anomaly_ft.model.storage import FORMAT
from anomaly_ft.model.threshold import Thresholds, WorkingPoint

POINT = WorkingPoint(threshold=3.3, target_fpr=0.01, guaranteed_fpr=0.125, images=7)


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def images(make_textures: Callable[[int, int, int], np.ndarray]) -> np.ndarray:
    return make_textures(8, 64, 3)


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory, compute: Compute, images: np.ndarray
) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with a detector that is unlike any default, and its scores."""
    torch.manual_seed(0)
    encoder = compute.prepare(load_encoder("test_efficientnet", "random", levels=["bn2", 2, 0], image_size=64))
    settings = detector_settings(
        score="dense",
        shrinkage=0.3,
        dense_levels=[0, "blocks.1"],
        grid=5,
        smoothing=0.8,
        variance_floor=0.2,
        dense_dimensions=20,
        map_levels=[1],
        map_grid=3,
    )
    detector = fit_detector(encoder, images[::-1] // 2 + 60, images // 2, compute, settings)
    folder = tmp_path_factory.mktemp("run")
    detector = detector.with_thresholds(Thresholds(POINT, (3.0, 4.0, 5.0, 4.0), 6.0))
    detector.save(folder, about={"statistics": "pretrained"})
    return folder, score_images(detector, images, compute)


@pytest.fixture
def folder(saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    """A copy to spoil, elsewhere."""
    return Path(shutil.copytree(saved[0], tmp_path / "moved"))


def test_a_detector_read_back_gives_identical_scores(
    saved: tuple[Path, dict[str, np.ndarray]], folder: Path, compute: Compute, images: np.ndarray
) -> None:
    detector = load_detector(folder)
    compute.prepare(detector.encoder)
    scores = score_images(detector, images, compute)
    for name, expected in saved[1].items():
        assert np.array_equal(scores[name], expected), name
    assert detector.encoder.levels == ("bn2", "blocks.1", "bn1")
    assert detector.settings.score == "dense"
    assert not detector.training
    assert detector.thresholds == Thresholds(POINT, (3.0, 4.0, 5.0, 4.0), 6.0)
    assert detector.map_threshold() == 6
    assert detector.chi_square.tolist() == [3, 4, 5, 4]
    with torch.no_grad():
        scores = detector(compute.batch(images)).scores
    np.testing.assert_allclose(scores, saved[1]["dense"], rtol=1e-4)  # here no batch norm is folded


def test_the_description_explains_the_numbers(folder: Path) -> None:
    description = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
    assert description["threshold"] == asdict(POINT)
    assert description["statistics"] == "pretrained"
    assert description["encoder"] == "test_efficientnet"
    assert description["image_size"] == 64
    assert "higher = more anomalous" in description["units"]
    tensors = load_file(folder / "detector.safetensors")
    assert {
        "mean_0",
        "whitening_2",
        "dense_mean",
        "location",
        "threshold",
        "chi_square",
        "map_kept",
    } <= tensors.keys()
    assert not any(key.startswith("encoder") for key in tensors)


@pytest.mark.parametrize("name", ["detector.json", "detector.safetensors"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"is not a finished run: {name} is missing"):
        load_detector(folder)


@pytest.mark.parametrize("name", ["encoder/config.json", "encoder/model.safetensors"])
def test_a_missing_encoder_is_an_error_about_that_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(EncoderError, match=Path(name).name):
        load_detector(folder)


@pytest.mark.parametrize("name", ["detector.json", "detector.safetensors"])
def test_a_damaged_file_is_an_error(name: str, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="the stored detector is damaged"):
        load_detector(folder)


@pytest.mark.parametrize(
    ("description", "found", "advice"),
    [
        ({"format": 99, "anomaly_ft": "9.8.7"}, r"99, written by anomaly_ft 9\.8\.7;", "; install a newer"),
        ({"format": 0}, "0, written by anomaly_ft unknown;", "$"),
        ({"format": True}, "True, written by anomaly_ft unknown;", "$"),
        ({"format": "1"}, "'1', written by anomaly_ft unknown;", "$"),
        ({}, "None, written by anomaly_ft unknown;", "$"),
        ([], "None, written by anomaly_ft unknown;", "$"),
    ],
)
def test_a_newer_or_unknown_format_is_refused_with_the_versions_named(
    description: object, found: str, advice: str, folder: Path
) -> None:
    (folder / "detector.json").write_text(json.dumps(description))
    ours = rf"this is anomaly_ft {re.escape(__version__)}, which reads formats? 1( to \d+)?"
    with pytest.raises(RunError, match=f"detector.json has format {found} {ours}{advice}"):
        load_detector(folder)


def test_the_version_that_wrote_a_detector_stands_in_it(folder: Path) -> None:
    description = json.loads((folder / "detector.json").read_text())
    assert description["anomaly_ft"] == __version__
    assert description["format"] == FORMAT


@pytest.mark.parametrize("key", ["threshold", "settings", "levels"])
def test_a_description_that_lacks_something_is_an_error(key: str, folder: Path) -> None:
    description = json.loads((folder / "detector.json").read_text())
    del description[key]
    (folder / "detector.json").write_text(json.dumps(description))
    with pytest.raises(RunError, match=f"do not fit together: KeyError: '{key}'"):
        load_detector(folder)


@pytest.mark.parametrize("kind", [None, "forest", 3, ["gaussian"], {}])
def test_a_kind_of_detector_that_nobody_knows_is_an_error(kind: object, folder: Path) -> None:
    description = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps(description | {"kind": kind}))
    with pytest.raises(
        RunError, match=rf"detector.json has kind {re.escape(repr(kind))}, expected one of gaussian"
    ):
        load_detector(folder)


def spoil_json(folder: Path, key: str, value: object) -> None:
    description = json.loads((folder / "detector.json").read_text())
    description[key] = value
    (folder / "detector.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("key", "value"), [("settings", {"colour": 1}), ("settings", 3), ("levels", 3), ("threshold", 3)]
)
def test_a_description_that_makes_no_sense_is_an_error(key: str, value: object, folder: Path) -> None:
    spoil_json(folder, key, value)
    with pytest.raises(RunError, match=r"detector\.json and detector\.safetensors do not fit together"):
        load_detector(folder)


@pytest.mark.parametrize("key", ["mean_1", "dense_whitening", "location", "spread", "threshold"])
def test_a_missing_tensor_is_an_error_that_names_it(key: str, folder: Path) -> None:
    tensors = load_file(folder / "detector.safetensors")
    del tensors[key]
    save_file(tensors, folder / "detector.safetensors")
    with pytest.raises(RunError, match=f"do not fit together: KeyError: '{key}'"):
        load_detector(folder)


def test_an_encoder_of_another_kind_is_an_error(folder: Path) -> None:
    spoil_json(folder, "encoder", "test_vit")
    with pytest.raises(AnomalyFtError, match="holds a 'test_efficientnet'"):
        load_detector(folder)


def test_two_thresholds_are_an_error(folder: Path) -> None:
    spoil_json(folder, "threshold", asdict(POINT) | {"threshold": 9.5})
    with pytest.raises(RunError, match=r"detector\.json and detector\.safetensors have two thresholds"):
        load_detector(folder)


def test_a_score_nobody_knows_is_an_error(folder: Path) -> None:
    settings = json.loads((folder / "detector.json").read_text())["settings"]
    spoil_json(folder, "settings", settings | {"score": "best"})
    with pytest.raises(RunError, match=r"detector\.json decides by 'best', expected pooled, dense, fused"):
        load_detector(folder)
