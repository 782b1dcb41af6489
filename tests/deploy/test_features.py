"""`anomaly_ft.features`: the encoder for scikit-learn."""

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor, nn

import anomaly_ft
from anomaly_ft.errors import DataError, RunError
from anomaly_ft.model.loading import load_run


@pytest.fixture(scope="module")
def images(mvtec_folder: Path) -> list[Path]:
    return sorted((mvtec_folder / "test").rglob("*.png"))


def test_features_are_the_averages_of_every_level_of_the_timm_model(
    small_run: Path, images: list[Path]
) -> None:
    run = load_run(small_run, device="cpu", precision="fp32", batch_size=4)
    found = anomaly_ft.features(run, images)
    model = timm.create_model(f"local-dir:{small_run / 'encoder'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: object, output: Tensor) -> None:
        seen.append(output.mean((2, 3)))

    for level in run.detector.encoder.levels:
        model.get_submodule(level).register_forward_hook(keep)
    pixels = np.stack([np.asarray(Image.open(path)) for path in images]) / 255
    normalised = (pixels - config["mean"]) / config["std"]
    with torch.inference_mode():
        model.forward_features(torch.from_numpy(normalised).float().permute(0, 3, 1, 2))
    expected = torch.cat(seen, 1).numpy()
    assert found.shape == (10, sum(run.detector.encoder.widths))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_paths_and_arrays_give_the_same_features(small_run: Path, images: list[Path]) -> None:
    run = load_run(small_run, device="cpu", precision="fp32")
    arrays = np.stack([np.asarray(Image.open(path)) for path in images])
    expected = anomaly_ft.features(run, images)
    assert np.array_equal(anomaly_ft.features(run, arrays), expected)
    assert np.array_equal(anomaly_ft.features(run, [str(path) for path in images]), expected)


def test_a_run_is_a_step_of_a_scikit_learn_pipeline(small_run: Path, images: list[Path]) -> None:
    labels = ["hole" in path.parts for path in images]
    step = FunctionTransformer(partial(anomaly_ft.features, small_run))
    pipeline = make_pipeline(step, StandardScaler(), LogisticRegression()).fit(images, labels)
    assert pipeline.predict(images).tolist() == labels
    again = pickle.loads(pickle.dumps(pipeline))
    assert again.predict(images[:2]).tolist() == labels[:2]


def test_no_images_are_no_rows(small_run: Path) -> None:
    found = anomaly_ft.features(small_run, [])
    assert found.shape[0] == 0
    assert found.shape[1] > 0


def test_what_cannot_be_read_is_an_error(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a file"):
        anomaly_ft.features(small_run, [tmp_path / "missing.png"])
    with pytest.raises(RunError, match="no run folder"):
        anomaly_ft.features(tmp_path / "missing", [])


def test_the_package_offers_nothing_else_and_loads_no_torch_before() -> None:
    code = (
        "import sys, time; start = time.process_time(); import anomaly_ft; "
        "print('torch' in sys.modules, time.process_time() - start < 0.5); anomaly_ft.featrues"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"]
    assert "module 'anomaly_ft' has no attribute 'featrues'" in done.stderr
