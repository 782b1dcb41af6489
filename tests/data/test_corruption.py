"""Corruptions: what is changed is what the mask says, alike in every batch, and noise is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from settings import write_images

from anomaly_ft.data.corruption import FILLINGS, LEAST, SHAPES, Corruption, read_textures
from anomaly_ft.data.shapes import Size, closed_curve, islands
from anomaly_ft.errors import DataError

Draw = Callable[[Size, float, np.random.Generator], np.ndarray]
NAMES = ["a.png", "b.png", "c.png", "d.png"]
NONE = np.empty((0, 64, 64, 3), np.uint8)
USUAL = Corruption(tuple(SHAPES), tuple(FILLINGS), clean_share=0.0, noise=4.0, seed=3, textures=NONE)


@pytest.fixture
def images(make_textures: Callable[[int, int, int], np.ndarray]) -> np.ndarray:
    return make_textures(4, 64, 5)


def test_an_image_is_corrupted_alike_in_every_batch(images: np.ndarray) -> None:
    whole = USUAL.batch(images, NAMES, 1, images)
    again = USUAL.batch(images[[2, 0]], ["c.png", "a.png"], 1, images)
    for one, other in zip(whole, again, strict=True):
        assert np.array_equal(one[[2, 0]], other)
    for otherwise in (
        USUAL.batch(images, NAMES, 2, images),
        replace(USUAL, seed=4).batch(images, NAMES, 1, images),
    ):
        assert not np.array_equal(whole.corrupted, otherwise.corrupted)


def test_the_mask_is_where_an_image_was_changed_and_noise_is_in_both(images: np.ndarray) -> None:
    quiet = replace(USUAL, noise=0.0).batch(images, NAMES, 1, images)
    assert np.array_equal(quiet.clean, images)
    changed = np.abs(quiet.corrupted.astype(int) - images).max(-1) > LEAST
    assert np.array_equal(changed, quiet.mask)
    assert quiet.mask.any((1, 2)).all()
    noisy = USUAL.batch(images, NAMES, 1, images)
    assert np.array_equal(noisy.mask, quiet.mask)
    assert not np.array_equal(noisy.clean, images)
    apart = np.abs(noisy.clean.astype(int) - noisy.corrupted)[~noisy.mask]
    assert apart.max() <= LEAST + 1  # what is laid over is the same, up to rounding


def test_about_the_share_asked_for_stays_clean(images: np.ndarray) -> None:
    half = replace(USUAL, clean_share=0.5)
    clean = [not half.image(images[0], images, [k]).mask.any() for k in range(200)]
    assert 0.4 < np.mean(clean) < 0.6


def test_grey_images_stay_grey(images: np.ndarray) -> None:
    grey = np.repeat(images[..., :1], 3, axis=-1)
    done = USUAL.batch(grey, NAMES, 1, grey)
    assert done.mask.any()
    for each in (done.clean, done.corrupted):
        assert (each == each[..., :1]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filling", FILLINGS)
def test_every_shape_is_filled_with_everything(images: np.ndarray, shape: str, filling: str) -> None:
    done = replace(USUAL, shapes=(shape,), fillings=(filling,), noise=0.0).batch(images, NAMES, 1, images)
    assert done.corrupted.dtype == np.uint8
    assert 0 < done.mask.mean() < 0.6


@pytest.mark.parametrize("draw", [closed_curve, islands])
def test_a_shape_covers_about_the_area_asked_for(draw: Draw) -> None:
    areas = [draw((96, 96), 0.04, np.random.default_rng(k)).mean() for k in range(30)]
    assert 0.02 < np.mean(areas) < 0.05  # less where it ends at the border


def test_textures_of_the_user_are_used(images: np.ndarray, tmp_path: Path) -> None:
    write_images(tmp_path, np.full((3, 80, 100, 3), 255, np.uint8))
    textures = read_textures(str(tmp_path), 64)
    assert textures.shape == (3, 64, 64, 3)
    own = replace(USUAL, fillings=(), textures=textures, noise=0.0).batch(images, NAMES, 1, images)
    assert own.corrupted[own.mask].min(-1).mean() > images[own.mask].min(-1).mean() + 10
    assert read_textures("", 64).shape == (0, 64, 64, 3)


def test_a_folder_of_textures_that_is_of_no_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"filter\.textures: .*nowhere is no folder"):
        read_textures(str(tmp_path / "nowhere"), 64)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"filter\.textures: .* holds no image; expected a folder of images"):
        read_textures(str(tmp_path), 64)
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"filter\.textures: .*torn\.png cannot be read"):
        read_textures(str(tmp_path), 64)
