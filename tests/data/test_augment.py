"""Training augmentations: repeatable, independent of batches, refused when they make no sense."""

import numpy as np
import pytest

from anomaly_ft.data.augment import make_augment
from anomaly_ft.errors import DataError

STEPS = [
    {"HorizontalFlip": {"p": 0.5}},
    {"RandomBrightnessContrast": {"brightness_limit": (-0.3, 0.3), "p": 1}},
]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)


def test_without_steps_images_are_untouched(pixels):
    assert make_augment([], image_size=16, seed=0)(pixels, range(12), 1) is pixels


def test_an_image_looks_the_same_in_whatever_batch_it_comes(pixels):
    augment = make_augment(STEPS, image_size=16, seed=0)
    whole = augment(pixels, range(12), 3)
    order = np.random.default_rng(1).permutation(12)
    again = make_augment(STEPS, image_size=16, seed=0)(pixels[order], order, 3)
    assert np.array_equal(again, whole[order])
    assert not np.array_equal(whole, pixels)


def test_every_epoch_and_seed_is_different(pixels):
    augment = make_augment(STEPS, image_size=16, seed=0)
    first = augment(pixels, range(12), 0)
    assert not np.array_equal(first, augment(pixels, range(12), 1))
    assert not np.array_equal(first, make_augment(STEPS, image_size=16, seed=1)(pixels, range(12), 0))


@pytest.mark.parametrize(
    ("step", "match"),
    [
        ({"HorizontalFlop": {}}, "no transform 'HorizontalFlop' .did you mean 'HorizontalFlip'"),
        ({"HorizontalFlip": {"often": 1}}, "HorizontalFlip cannot be made with"),
        ({"RandomBrightnessContrast": {"brightness_limit": "much"}}, "cannot be made with"),
        ({"CenterCrop": {"height": 8, "width": 8}}, "into uint8 8 x 8 x 3; images must keep their size"),
        ({"ToFloat": {}}, "into float32"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step, match):
    with pytest.raises(DataError, match=match):
        make_augment([step], image_size=16, seed=0)


def test_the_recipe_takes_one_transform_for_each_step(tmp_path):
    from anomaly_ft.errors import RecipeError
    from anomaly_ft.recipe.read import read_recipe

    path = tmp_path / "r.yaml"
    path.write_text("data: {root: demo:elpv-mono}\nexpert: {data: {augment: [{HorizontalFlip: {p: 0.5}}]}}\n")
    (step,) = read_recipe(path).data.augment
    make_augment([step], image_size=16, seed=0)
    path.write_text(
        "data: {root: demo:elpv-mono}\nexpert: {data: {augment: [{HorizontalFlip: {}, VerticalFlip: {}}]}}\n"
    )
    with pytest.raises(RecipeError, match=r"expected one {name: settings} for each transform"):
        read_recipe(path)
