"""Large images in overlapping tiles, with a run to which positions mean nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from settings import ONE_AUGMENTATION, detector_settings, textures, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.tiles import plan, predict_tiles

TILE = (64, 64)
FREE = (*ONE_AUGMENTATION, "name=free", "gaussian.position=free", "schedule.max_epochs=0")


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32", batch_size=4)


@pytest.fixture(scope="module")
def detector(compute: Compute) -> GaussianDetector:
    encoder = compute.prepare(load_encoder("test_efficientnet", "random", image_size=64))
    pixels = textures(20, 64, seed=1)
    settings = detector_settings(position="free", grid=4)
    return fit_detector(encoder, pixels[:14], pixels[14:], compute, settings)


@pytest.fixture(scope="module")
def free_run(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with free positions."""
    folder = tmp_path_factory.mktemp("free")
    recipe = write_recipe(folder / "free.yaml", mvtec_folder, *FREE)
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(folder)])
    assert result.exit_code == 0, result.output
    return folder / "free-001"


@pytest.mark.parametrize("side", [64, 65, 95, 128, 1000, 2048])
def test_tiles_cover_all_of_a_side_overlap_by_half_and_end_where_it_ends(side: int) -> None:
    laid = plan(side, 64, 14)
    pixels, positions = (np.array([start[i] for start in laid.starts]) for i in (0, 1))
    assert pixels[0] == positions[0] == 0
    assert pixels[-1] == side - 64
    assert positions[-1] == laid.length - 14
    assert (np.diff(positions) <= 7).all()
    assert (np.diff(pixels) <= 40).all()
    assert len(laid.starts) <= 1 + np.ceil((side - 64) / 28)


def test_an_image_of_one_tile_has_the_scores_and_the_map_of_the_whole(
    detector: GaussianDetector, compute: Compute
) -> None:
    image = textures(1, 64, seed=5)[0]
    expected = predict_batch(detector, compute.batch(image[None]), compute, explain=True)
    outputs = predict_tiles(detector, image, TILE, compute, explain=True)
    for name, values in expected.scores.items():
        np.testing.assert_array_equal(outputs.scores[name], values)
    for name, values in expected.maps.items():
        np.testing.assert_allclose(outputs.maps[name], values, rtol=1e-6)
    np.testing.assert_array_equal(outputs.distances, expected.distances)


def test_a_pattern_that_comes_again_has_a_map_that_comes_again(
    detector: GaussianDetector, compute: Compute
) -> None:
    image = np.tile(textures(1, 64, seed=6)[0], (4, 4, 1))
    (stitched,) = predict_tiles(detector, image, TILE, compute).localises
    assert stitched.shape == (56, 56)
    inner = stitched[14:42, 14:42]  # behind the first half tile two tiles overlap everywhere
    np.testing.assert_allclose(inner[14:], inner[:14], rtol=1e-4)
    np.testing.assert_allclose(inner[:, 14:], inner[:, :14], rtol=1e-4)


def test_a_defect_is_found_where_it_is(detector: GaussianDetector, compute: Compute) -> None:
    image = textures(1, 256, seed=7)[0, :, :192]
    clean = predict_tiles(detector, image, TILE, compute)
    image[150:170, 60:80] = 255
    outputs = predict_tiles(detector, image, TILE, compute)
    assert outputs.score[0] > clean.score[0]
    raised = outputs.localises[0] - clean.localises[0]
    row, column = np.unravel_index(raised.argmax(), raised.shape)
    assert 150 / 256 <= (row + 0.5) / raised.shape[0] <= 172 / 256
    assert 58 / 192 <= (column + 0.5) / raised.shape[1] <= 82 / 192


def test_the_score_is_the_highest_of_all_tiles(detector: GaussianDetector, compute: Compute) -> None:
    seen: list[np.ndarray] = []
    outputs = predict_tiles(detector, textures(1, 128, seed=8)[0], TILE, compute, look=seen.append)
    assert len(seen) == 9
    each = [predict_batch(detector, compute.batch(one[None]), compute, explain=False) for one in seen]
    for name, value in outputs.scores.items():
        assert value[0] == pytest.approx(max(part.scores[name][0] for part in each), rel=1e-5)


def test_the_encoder_never_sees_more_than_a_batch_whatever_the_size(
    detector: GaussianDetector, compute: Compute, make_textures: Callable[..., np.ndarray]
) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = detector.encoder.register_forward_pre_hook(lambda _, images: shapes.append(tuple(images[0].shape)))
    try:
        predict_tiles(detector, make_textures(1, 256, 9)[0], TILE, compute)
    finally:
        hook.remove()
    assert set(shapes) <= {(n, 3, 64, 64) for n in range(1, 5)}
    assert sum(shape[0] for shape in shapes) == 49


def test_an_image_narrower_than_a_tile_says_so(detector: GaussianDetector, compute: Compute) -> None:
    with pytest.raises(ValueError, match="40 x 100 pixels are less than a tile of 64 x 64 along one side"):
        predict_tiles(detector, np.zeros((100, 40, 3), np.uint8), TILE, compute)


def test_predict_writes_stitched_maps_and_says_what_the_threshold_means(free_run: Path, tmp_path: Path) -> None:
    images = textures(2, 160, seed=10)[:, :, :128].copy()
    images[1, 40:60, 100:120] = 255
    write_images(tmp_path / "wide", images)
    write_images(tmp_path / "wide", textures(1, 100, seed=11)[:, :, :50], name="narrow.png")
    (tmp_path / "wide" / "torn.png").write_bytes(b"\x89PNG")
    arguments = ["predict", str(free_run), str(tmp_path / "wide"), "--tile", "64", "--maps"]
    result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert "along one side; take smaller tiles" in rows[3]
    assert "torn.png" in rows[4]
    assert "highest of its tiles" in " ".join(result.output.split())
    raw = np.load(next((tmp_path / "out" / "maps").glob("000001-*.npy")))
    assert raw.shape == (160, 128)
    assert raw[40:60, 100:120].mean() > 1.2 * np.median(raw)


def test_an_image_no_larger_than_a_tile_is_predicted_as_without(free_run: Path, mvtec_folder: Path) -> None:
    image = str(mvtec_folder / "test" / "hole" / "000.png")
    without = CliRunner().invoke(main, ["predict", str(free_run), image]).stdout
    assert CliRunner().invoke(main, ["predict", str(free_run), image, "--tile", "64"]).stdout == without


def test_evaluate_measures_in_tiles(free_run: Path, tmp_path: Path) -> None:
    wrong, masks = textures(3, 128, seed=12), np.zeros((3, 128, 128), np.uint8)
    wrong[:, 20:40, 80:100] = 255
    masks[:, 20:40, 80:100] = 255
    write_images(tmp_path / "wide" / "test" / "good", textures(3, 128, seed=13))
    write_images(tmp_path / "wide" / "test" / "good", textures(1, 160, seed=14), name="larger.png")
    write_images(tmp_path / "wide" / "test" / "hole", wrong)
    write_images(tmp_path / "wide" / "ground_truth" / "hole", masks, name="{:03d}_mask.png")
    write_images(tmp_path / "wide" / "train" / "good", textures(2, 128, seed=15))
    arguments = ["evaluate", str(free_run), "--data", str(tmp_path / "wide"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--tile", "64"])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "out").glob("*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["tile"] == 64
    assert summary["test"]["pixel_auroc"] > 0.9
    assert any("highest of its tiles" in notice for notice in summary["notices"])


def test_tiles_smaller_than_a_patch_are_refused(free_run: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(free_run), "image.png", "--tile", "8"])
    assert result.exit_code == 2
    assert (
        "--tile: 8 x 8 pixels are less than one patch of the encoder (32 pixels); use 32 or more"
        in " ".join(result.output.split())
    )


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_fixed_positions_have_no_tiles(command: str, small_run: Path) -> None:
    images = ["image.png"] if command == "predict" else []
    result = CliRunner().invoke(main, [command, str(small_run), *images, "--tile", "64"])
    assert result.exit_code == 2
    assert "positions mean something, and a tile has other positions" in " ".join(result.output.split())


def test_images_that_were_cut_have_no_tiles(mvtec_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "free.yaml", mvtec_folder, *FREE, "data.resize=center-crop")
    assert CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path)]).exit_code == 0
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "free-001"), "image.png", "--tile", "64"])
    assert result.exit_code == 2
    assert "trained with data.resize: center-crop, which tiles have no part in" in " ".join(
        result.output.split()
    )
