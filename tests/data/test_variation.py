"""Benign variation: repeatable by name, bounded by its strengths, and never more than was asked for."""

from pathlib import Path

import numpy as np
import pytest

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import AT_ONCE, CHANGES, Variation, half_varied, with_copies
from anomaly_ft.recipe.variation import PRESETS

STRENGTHS = PRESETS["free"]


def images_of(pixels, prefix="part"):
    return Images(pixels, tuple(Record(Path(), f"{prefix}{i}.png", "train") for i in range(len(pixels))))


@pytest.fixture
def images():
    return images_of(np.random.default_rng(0).integers(60, 190, (8, 48, 48, 3), np.uint8))


def test_every_change_that_a_recipe_names_can_be_made():
    assert set(CHANGES) == set(STRENGTHS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_alters_images_and_keeps_their_size_type_and_greyness(change):
    grey = np.repeat(np.random.default_rng(1).integers(60, 190, (12, 48, 48, 1), np.uint8), 3, axis=3)
    varied = Variation({change: STRENGTHS[change]}).copy(images_of(grey), 0).pixels[:]
    assert varied.shape == grey.shape
    assert varied.dtype == np.uint8
    assert (varied == varied[..., :1]).all()
    if change != "white_balance":  # which a grey camera has not
        assert (varied != grey).any()


def test_white_balance_changes_the_colours_of_a_colour_image(images):
    varied = Variation({"white_balance": 0.05}).copy(images, 0).pixels[:]
    factors = varied.mean((1, 2)) / images.pixels.mean((1, 2))
    assert np.ptp(factors, axis=1).max() > 0.01
    assert np.abs(factors - 1).max() < 0.055


def test_brightness_stays_within_its_strength():
    flat = np.full((64, 32, 32, 3), 100, np.uint8)
    means = Variation({"brightness": 0.15}).copy(images_of(flat), 0).pixels[:].mean((1, 2, 3))
    assert 85 <= means.min() < 90
    assert 110 < means.max() <= 115


def test_a_shift_moves_by_whole_pixels_within_its_strength():
    dot = np.zeros((64, 33, 33, 3), np.uint8)
    dot[:, 16, 16] = 255
    moved = Variation({"shift": 4}).copy(images_of(dot), 0).pixels[:][..., 0]
    places = np.array([np.argwhere(image == 255)[0] for image in moved]) - 16
    assert np.abs(places).max() == 4
    assert len(np.unique(places[:, 0])) > 4


def test_at_most_three_changes_meet_in_one_image():
    # two changes that can be told apart in a flat image, of many that cannot: only their share is looked at
    names = ["brightness", "contrast", "gamma", "white_balance", "noise"]
    variation = Variation({name: STRENGTHS[name] for name in names})
    noisy = [
        np.ptp(image) > 0
        for image in variation.copy(images_of(np.full((300, 8, 8, 3), 128, np.uint8)), 0).pixels
    ]
    # one to three of five are chosen, so noise is among them in (1 + 2 + 3) / 3 / 5 of all images
    assert AT_ONCE == 3
    assert np.mean(noisy) == pytest.approx(0.4, abs=0.1)


def test_an_image_varies_by_its_name_alone(images):
    variation = Variation(STRENGTHS, seed=3)
    whole = variation.copy(images, 1).pixels[:]
    order = np.random.default_rng(2).permutation(8)
    shuffled = Images(images.pixels[order], tuple(images.records[i] for i in order))
    again = Variation(STRENGTHS, seed=3).copy(shuffled, 1).pixels
    assert np.array_equal(np.stack([again[k] for k in range(8)]), whole[order])


def test_other_seeds_copies_and_names_vary_otherwise(images):
    first = Variation(STRENGTHS).copy(images, 0).pixels[:]
    for other in (
        Variation(STRENGTHS, seed=1).copy(images, 0),
        Variation(STRENGTHS).copy(images, 1),
        Variation(STRENGTHS).copy(images_of(images.pixels, "piece"), 0),
    ):
        assert not np.array_equal(other.pixels[:], first)


def test_copies_follow_the_images_in_blocks(images):
    variation = Variation(STRENGTHS)
    together = with_copies(images, variation, 2)
    assert len(together) == 24
    assert together.records == images.records * 3
    blocks = [images.pixels, *(variation.copy(images, k).pixels[:] for k in range(2))]
    assert np.array_equal(together.pixels[:], np.concatenate(blocks))
    assert np.array_equal(together.pixels[[23, 0, 9]], together.pixels[:][[23, 0, 9]])


def test_without_variation_or_copies_images_are_the_same_object(images):
    assert with_copies(images, Variation({}), 2) is images
    assert with_copies(images, Variation(STRENGTHS), 0) is images
    assert half_varied(images, Variation({})) is images
    image = images.pixels[0]
    assert Variation({}).image(image, [1]) is image


def test_of_half_varied_images_each_is_itself_or_its_first_copy():
    images = images_of(np.random.default_rng(0).integers(60, 190, (40, 16, 16, 3), np.uint8))
    variation = Variation(STRENGTHS)
    half, copy = half_varied(images, variation).pixels[:], variation.copy(images, 0).pixels[:]
    same = (half == images.pixels).all((1, 2, 3))
    varied = (half == copy).all((1, 2, 3))
    assert (same | varied).all()
    assert 10 < same.sum() < 35


def test_a_share_of_training_images_stays_clean():
    images = np.random.default_rng(0).integers(60, 190, (300, 8, 8, 3), np.uint8)
    names = [f"{i}.png" for i in range(300)]
    seen = Variation({"brightness": 0.15}).batch(images, names, 1000, clean=1 / 3)
    assert (seen == images).all((1, 2, 3)).mean() == pytest.approx(1 / 3, abs=0.08)


def test_where_parts_lie_anyhow_every_varied_image_has_a_pose_of_its_own():
    arrow = np.zeros((40, 33, 33, 3), np.uint8)
    arrow[:, 4:8, 10:20] = 255  # above the middle, to the left
    seen = Variation({"flips": 1.0, "brightness": 0.01}).copy(images_of(arrow), 0).pixels[:]
    poses = {tuple(np.argwhere(image[..., 0] > 100).mean(0).round().astype(int)) for image in seen}
    assert len(poses) == 8
    same = [np.array_equal(image > 100, arrow[0] > 100) for image in seen]
    assert np.mean(same) < 0.4, "one pose of eight is the image's own"


def test_an_image_is_turned_before_its_noise_and_not_after_it():
    flat = np.full((20, 64, 64, 3), 128, np.uint8)
    both = Variation({"rotation": 45, "noise": 20}, seed=1)
    noise = Variation({"noise": 20}, seed=1)
    spread = [np.std(image.astype(float)) for image in both.copy(images_of(flat), 0).pixels]
    alone = [np.std(image.astype(float)) for image in noise.copy(images_of(flat), 0).pixels]
    assert np.mean(spread) == pytest.approx(np.mean(alone), rel=0.25), "interpolation would smooth it"
