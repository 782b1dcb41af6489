from collections.abc import Callable

import numpy as np
import pytest

from anomaly_ft.data.lazy_images import Rows
from anomaly_ft.data.pseudo_anomalies import AUGMENTATIONS, pseudo_anomalies

# these use no partner
ALONE = ["cutout", "cutpaste", "scar", "confetti", "line", "stain", "warp", "augmix", "blur", "noise", "colour"]
NAMES = [f"train/good/{i:03d}.png" for i in range(12)]
every = pytest.mark.parametrize("augmentation", AUGMENTATIONS)


@pytest.fixture(scope="module")
def pixels(make_textures: Callable[[int, int, int], np.ndarray]) -> np.ndarray:
    images = make_textures(12, 48, 5)
    images.flags.writeable = False  # an augmentation that draws into its input fails at once
    return images


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Share of pixels that differ, for each image."""
    return (before != after).any(-1).mean((1, 2))


@every
def test_severity_zero_changes_nothing(augmentation: str, pixels: np.ndarray) -> None:
    assert np.array_equal(pseudo_anomalies(pixels, NAMES, augmentation, 0.0, seed=0), pixels)


@every
@pytest.mark.parametrize("severity", [0.02, 0.5, 1.0])
def test_pseudo_anomalies_have_the_form_of_the_images(
    augmentation: str, severity: float, pixels: np.ndarray
) -> None:
    out = pseudo_anomalies(pixels, NAMES, augmentation, severity, seed=0)
    assert out.shape == pixels.shape
    assert out.dtype == np.uint8


@every
def test_the_inputs_stay_as_they_are(augmentation: str, pixels: np.ndarray) -> None:
    image, partner = pixels[0].copy(), pixels[1].copy()
    out = AUGMENTATIONS[augmentation](image, partner, 1.0, np.random.default_rng(0))
    assert np.array_equal(image, pixels[0])
    assert np.array_equal(partner, pixels[1])
    assert not np.array_equal(out, image)


@every
def test_growing_severity_changes_more_pixels(augmentation: str, pixels: np.ndarray) -> None:
    shares = [
        changed(pixels, pseudo_anomalies(pixels, NAMES, augmentation, severity, seed=0)).mean()
        for severity in (0.1, 0.3, 0.6, 1.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


@every
def test_equal_calls_give_equal_images_and_another_seed_gives_others(
    augmentation: str, pixels: np.ndarray
) -> None:
    first, again, other = (pseudo_anomalies(pixels, NAMES, augmentation, 0.7, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert all(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@every
def test_each_image_has_its_own_change(augmentation: str, pixels: np.ndarray) -> None:
    same = np.repeat(pixels[:1], 4, axis=0)
    same[1::2] = pixels[1]
    out = pseudo_anomalies(same, NAMES[:4], augmentation, 0.7, seed=0)
    assert not np.array_equal(out[0], out[2])


@pytest.mark.parametrize("augmentation", ALONE)
def test_an_image_gets_the_same_change_in_whatever_company_and_order(
    augmentation: str, pixels: np.ndarray
) -> None:
    together = pseudo_anomalies(pixels, NAMES, augmentation, 0.7, seed=0)
    order = np.random.default_rng(1).permutation(12)
    shuffled = pseudo_anomalies(pixels[order], [NAMES[i] for i in order], augmentation, 0.7, seed=0)
    assert np.array_equal(shuffled, together[order])
    some = pseudo_anomalies(pixels[4:9], NAMES[4:9], augmentation, 0.7, seed=0)
    assert np.array_equal(some, together[4:9])


@every
def test_the_global_random_state_has_no_say(augmentation: str, pixels: np.ndarray) -> None:
    import random

    random.seed(1)
    np.random.seed(1)
    first = pseudo_anomalies(pixels, NAMES, augmentation, 0.7, seed=0)
    random.seed(2)
    np.random.seed(2)
    assert np.array_equal(pseudo_anomalies(pixels, NAMES, augmentation, 0.7, seed=0), first)


@pytest.mark.parametrize("augmentation", ["mixup", "cutmix"])
def test_partners_are_other_images(augmentation: str) -> None:
    """Each image is of one grey level; what is mixed in shows by another."""
    grey = np.arange(10, 130, 10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    out = pseudo_anomalies(grey, NAMES, augmentation, 1.0, seed=0)
    assert all(not np.array_equal(a, b) for a, b in zip(grey, out, strict=True))


def test_a_partner_is_found_by_its_place_among_the_images() -> None:
    grey = np.arange(10, 130, 10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    first = pseudo_anomalies(grey, NAMES, "mixup", 1.0, seed=0)
    assert np.array_equal(pseudo_anomalies(grey, NAMES, "mixup", 1.0, seed=0), first)
    turned = pseudo_anomalies(grey[::-1], NAMES[::-1], "mixup", 1.0, seed=0)[::-1]
    assert not np.array_equal(turned, first), "another order gives other partners"


def test_mixup_is_a_blend_of_the_two(pixels: np.ndarray) -> None:
    image, partner = pixels[0].astype(float), pixels[1].astype(float)
    out = AUGMENTATIONS["mixup"](pixels[0], pixels[1], 1.0, np.random.default_rng(0)).astype(float)
    weight = np.linalg.lstsq((partner - image).reshape(-1, 1), (out - image).ravel(), rcond=None)[0][0]
    assert 0.25 <= weight <= 0.5
    np.testing.assert_allclose(out, image + weight * (partner - image), atol=0.6)


def test_cutmix_takes_a_rectangle_of_the_partner_in_place(pixels: np.ndarray) -> None:
    black, white = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    out = AUGMENTATIONS["cutmix"](black, white, 0.5, np.random.default_rng(0))
    rows, columns = (np.flatnonzero((out == 255).any((1 - axis, 2))) for axis in (0, 1))
    box = out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (box == 255).all()
    assert box.shape[0] * box.shape[1] / 1600 == pytest.approx(0.4**2, rel=0.1)


@pytest.mark.parametrize("grey", [20, 128, 235])
def test_lines_are_thin_and_stains_are_soft(grey: int) -> None:
    flat = np.full((224, 224, 3), grey, np.uint8)
    for seed in range(20):
        line, stain = (
            AUGMENTATIONS[name](flat, flat, 0.4, np.random.default_rng(seed)).astype(int).mean(-1)
            for name in ("line", "stain")
        )
        assert 0 < (line != grey).mean() < 0.02
        assert abs(line - grey).max() <= 0.5 * 0.4 * 255 + 1
        assert abs(np.diff(stain, axis=0)).max() < 12, "no edge"
        assert abs(stain - grey).max() <= 0.4 * 0.4 * 255 + 1


def test_what_is_dark_gets_brighter_and_what_is_bright_gets_darker() -> None:
    for grey, sign in ((0, 1), (255, -1)):
        flat = np.full((64, 64, 3), grey, np.uint8)
        out = AUGMENTATIONS["line"](flat, flat, 0.5, np.random.default_rng(3)).astype(int)
        assert (sign * (out - grey)).max() > 50


def test_a_blend_comes_from_another_place_of_the_partner() -> None:
    """The partner's values tell where they come from: red the row, green the column, below a constant image."""
    rows, columns = np.indices((64, 64))
    partner = np.stack([4 * rows, 4 * columns, 255 * np.ones((64, 64))], -1).astype(np.uint8)
    out = AUGMENTATIONS["blend"](np.zeros_like(partner), partner, 1.0, np.random.default_rng(0)).astype(float)
    opacity = out[..., 2] / 255
    inside = opacity > 0.3
    assert 0.7 < opacity.max() <= 0.81
    for place, channel in ((rows, 0), (columns, 1)):
        moved = (out[..., channel][inside] / opacity[inside] / 4 - place[inside]) % 64
        assert moved.min() > 14
        assert moved.max() < 50


def test_a_warp_moves_what_is_there_and_invents_nothing() -> None:
    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(100, 156, (32, 32), np.uint8).repeat(4, 0).repeat(4, 1)[..., None], 3, 2)
    out = AUGMENTATIONS["warp"](image, image, 1.0, rng)
    assert image.min() <= out.min()
    assert out.max() <= image.max()
    assert (out != image).any(-1).mean() < 0.6


@pytest.mark.parametrize("augmentation", ["cutpaste", "scar"])
def test_a_pasted_patch_comes_from_the_image_itself(augmentation: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.permutation(np.arange(40 * 40)).reshape(40, 40)  # every pixel a value of its own
    coloured = np.stack([image % 256, image // 256, np.zeros_like(image)], -1).astype(np.uint8)
    out = AUGMENTATIONS[augmentation](coloured, coloured, 1.0, np.random.default_rng(1))
    values = out[..., 0].astype(int) + 256 * out[..., 1].astype(int)
    places = np.argwhere(values != image)
    assert len(places) > 0
    sources = np.array([np.argwhere(image == values[tuple(p)])[0] for p in places])
    assert len(np.unique(places - sources, axis=0)) == 1, "one patch, moved as a whole"


def test_one_image_alone_is_its_own_partner(pixels: np.ndarray) -> None:
    out = pseudo_anomalies(pixels[:1], NAMES[:1], "cutmix", 1.0, seed=0)
    assert np.array_equal(out, pixels[:1])


def test_those_that_are_not_kept_are_the_same_and_made_when_asked_for(pixels: np.ndarray) -> None:
    kept = pseudo_anomalies(pixels, NAMES, "cutpaste", 0.7, seed=0)
    asked = pseudo_anomalies(pixels, NAMES, "cutpaste", 0.7, seed=0, keep=False)
    assert isinstance(asked, Rows)
    assert asked.shape == kept.shape
    assert np.array_equal(np.concatenate([asked[:5], asked[5:]]), kept)
    assert np.array_equal(asked[-1], kept[-1])


def test_every_image_needs_a_name(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="11 names for 12 images"):
        pseudo_anomalies(pixels, NAMES[:-1], "scar", 1.0, seed=0)
