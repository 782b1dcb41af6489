"""How parts lie, on generated images: what was done to them is known, and has to be found and no more."""

import re

import cv2
import numpy as np
import pytest
from parts import SIDE, part, shifted, shots

from anomaly_ft.data.checks.pose import PAIRS, Pose, gain, measure_pose, turn
from anomaly_ft.data.checks.proposal import propose

LIMITS = {"flips": (0, 1), "rotation": (0, 180), "shift": (0, 64), "brightness": (0, 0.5)}
USUAL = {"shift": 4.0, "brightness": 0.15}


def proposed(images):
    """The strengths, and all that is said of them."""
    found = propose(measure_pose(images), "camera", USUAL, limits=LIMITS, image_size=224)
    return found.strengths, "\n".join((*found.why.values(), *found.seen))


def as_it_lies(picture, rng):
    return picture


def test_a_part_in_one_pose_keeps_the_preset():
    strengths, said = proposed(shots(as_it_lies))
    assert strengths == {}
    assert f"one fixed pose: {PAIRS} of {PAIRS} pairs" in said
    assert "shift: hardly any was seen" in said
    assert "round" not in said


def test_parts_turned_anyhow_ask_for_every_angle():
    images = shots(lambda picture, rng: turn(picture, rng.uniform(-180, 180)))
    strengths, said = proposed(images)
    assert strengths["rotation"] == 180
    assert "flips" not in strengths
    turned = int(re.search(rf"(\d+) of {PAIRS} pairs of images match best when turned, at angles", said)[1])
    assert turned >= 0.85 * PAIRS


@pytest.mark.parametrize("angle", [-140, -90, 35, 100, 180])
def test_the_angle_between_two_images_is_found(angle):
    pose = measure_pose(np.stack([turn(part(), angle), part()]).astype(np.uint8))
    assert len(pose.angles) == 1
    assert abs((pose.angles[0] - angle + 180) % 360 - 180) < 2


def test_parts_tilted_a_little_ask_for_a_little_rotation():
    images = shots(lambda picture, rng: turn(picture, rng.uniform(-15, 15)))
    strengths, said = proposed(images)
    assert strengths["rotation"] == pytest.approx(15, abs=4)
    assert "turned a little" in said


def test_parts_turned_by_quarters_ask_for_flips_and_not_for_angles_between():
    images = shots(lambda picture, rng: np.rot90(picture, rng.integers(4)))
    strengths, said = proposed(images)
    assert strengths["flips"] > 0
    assert "rotation" not in strengths
    assert "by quarters or halves" in said


def test_mirrored_parts_ask_for_flips_and_are_not_called_turned():
    images = shots(lambda picture, rng: picture[:, ::-1] if rng.random() < 0.5 else picture)
    strengths, said = proposed(images)
    assert strengths["flips"] > 0
    assert "rotation" not in strengths
    assert "when mirrored; this turns by quarters too, which was not seen" in said
    assert "one fixed pose" in said


@pytest.mark.parametrize("flip", [lambda p: p[::-1], lambda p: np.rot90(p)[:, ::-1]])
def test_parts_mirrored_the_other_ways_are_found_too(flip):
    images = shots(lambda picture, rng: flip(picture) if rng.random() < 0.5 else picture)
    assert measure_pose(images).mirrored >= 0.3 * PAIRS


def test_parts_that_lie_anyhow_ask_for_both():
    def anyhow(picture, rng):
        return turn(picture[:, ::-1] if rng.random() < 0.5 else picture, rng.uniform(-180, 180))

    assert {"rotation", "flips"} <= proposed(shots(anyhow))[0].keys()


def test_elongated_parts_turned_by_half_get_no_quarter_turns():
    upright = part((SIDE, SIDE // 2))
    images = shots(lambda p, rng: np.rot90(p, 2) if rng.random() < 0.5 else p, picture=upright)
    strengths, said = proposed(images)
    assert strengths == {}
    assert "no change does that to elongated images" in said


def test_a_few_exceptions_are_no_habit():
    images = shots(as_it_lies)
    images[5] = np.rot90(images[5])
    strengths, said = proposed(images)
    assert strengths == {}
    assert "one fixed pose" in said


def test_a_part_that_is_its_own_mirror_image_and_half_turn_is_not_called_either():
    symmetric = np.full((SIDE, SIDE), 60, np.float32)
    cv2.rectangle(symmetric, (20, 36), (SIDE - 21, SIDE - 37), 180, -1)
    images = shots(lambda p, rng: np.rot90(p, 2) if rng.random() < 0.5 else p, picture=symmetric)
    assert proposed(images)[0] == {}


def test_a_round_part_is_called_round_and_not_turned():
    disc = np.full((SIDE, SIDE), 60, np.float32)
    cv2.circle(disc, (SIDE // 2, SIDE // 2), 33, 180, -1)
    cv2.circle(disc, (SIDE // 2, SIDE // 2), 18, 90, -1)
    images = shots(lambda p, rng: turn(p, rng.uniform(-180, 180)), picture=disc)
    strengths, said = proposed(images)
    assert strengths == {}
    assert "round" in said


@pytest.mark.parametrize("pixels", [4, 9])
def test_shifts_are_measured_in_pixels_of_the_resized_image(pixels):
    images = shots(lambda p, rng: shifted(p, *rng.uniform(-pixels, pixels, 2)), count=40)
    strengths, _ = proposed(images)
    assert strengths == {"shift": pytest.approx(pixels * 224 / SIDE, rel=0.2, abs=1)}


def test_a_few_that_lie_elsewhere_are_no_shift_of_all():
    images = shots(as_it_lies)
    images[5], images[11] = (shifted(images[0], *place) for place in ((9, 3), (-8, 8)))
    strengths, said = proposed(images)
    assert strengths == {}
    assert "shift: hardly any was seen" in said


def test_shifts_within_the_preset_leave_it_as_it_is():
    images = shots(lambda p, rng: shifted(p, *rng.uniform(-1, 1, 2)))
    strengths, said = proposed(images)
    assert strengths == {}
    assert re.search(r"within [12]\.\d pixels of their place, at 224 pixels; the preset has 4", said)


@pytest.mark.parametrize("spread", [0.25, 0.4])
def test_brightness_asks_for_what_was_seen(spread):
    images = shots(lambda p, rng: p * rng.uniform(1 - spread, 1 + spread), count=40)
    assert proposed(images)[0]["brightness"] == pytest.approx(spread, abs=0.05)


def test_brightness_within_the_preset_leaves_it_as_it_is():
    assert "brightness" not in proposed(shots(lambda p, rng: p * rng.uniform(0.9, 1.1)))[0]


def test_slow_light_from_all_sides_is_no_turned_part():
    down, right = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5

    def lit(picture, rng):
        side = rng.uniform(0, 2 * np.pi)
        return picture + 80 * (np.cos(side) * right + np.sin(side) * down)

    strengths, said = proposed(shots(lit))
    assert "rotation" not in strengths
    assert "one fixed pose" in said


def grains(angle_of, strength=12):
    """Textures in which nothing repeats, drawn out in the direction that an image's number gives."""
    rng = np.random.default_rng(3)
    images = []
    for number in range(24):
        noise = cv2.GaussianBlur(
            rng.normal(0, 1, (2 * SIDE, 2 * SIDE)).astype(np.float32), (0, 0), strength, None, 1
        )
        noise = turn(noise, angle_of(number, rng))[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2]
        images.append(128 + 40 * noise / noise.std())
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


def test_a_texture_without_a_grain_has_no_pose():
    images = grains(lambda number, rng: 0, strength=1)
    strengths, said = proposed(images)
    assert strengths == {}
    assert f"no pose: 0 of {PAIRS} pairs" in said
    assert "shift" not in said


def test_a_texture_with_its_grain_in_one_direction_lies_one_way():
    images = grains(lambda number, rng: 30)
    strengths, said = proposed(images)
    assert strengths == {}
    assert "a texture lying one way" in said


def test_a_texture_whose_grain_turns_asks_for_rotation():
    assert proposed(grains(lambda number, rng: rng.uniform(0, 180)))[0] == {"rotation": 180}


def test_a_texture_whose_grain_turns_by_quarters_asks_for_flips():
    assert proposed(grains(lambda number, rng: 90 * (number % 2)))[0] == {"flips": 0.5}


@pytest.mark.parametrize("value", [0, 255])
def test_empty_images_show_nothing_and_ask_for_nothing(value):
    assert proposed(np.full((12, SIDE, SIDE), value, np.uint8))[0] == {}


@pytest.mark.parametrize("far", [(), (170.0,) * 4, (-90.0, 180.0)])
def test_the_few_that_are_turned_far_do_not_widen_a_small_tilt(far):
    """Pairs turned by 1 to 20 degrees either way, and as many that lie alike: 95 % are within 19 degrees."""
    near = (*range(1, 21), *range(-20, 0), *[0] * 40)
    pose = Pose(20, 100, (*map(float, near), *far), 0, (0.0,) * 80, 0.1, False, False, (0.5, 1.0), 1.0)
    found = propose(pose, "camera", USUAL, limits=LIMITS, image_size=224)
    assert found.strengths == {"rotation": np.ceil(np.quantile(np.abs(near), 0.95) / 1.5)}
    said = found.why["rotation"]
    assert said.startswith(f"40 of {80 + len(far)} pairs")
    assert "up to 20 degrees" in said
    assert ("turned farther, which this leaves out" in said) == bool(far)


def test_too_few_images_say_so():
    found = propose(None, "camera", USUAL, limits=LIMITS, image_size=224)
    assert found.strengths == {}
    assert "fewer than 8" in found.seen[0]


@pytest.mark.parametrize(
    ("shift", "brightness", "expected"),
    [(0.9, 3.0, {"shift": 64, "brightness": 0.5}), (0.03, 0.2, {"shift": 20, "brightness": 0.3})],
)
def test_a_proposal_stays_within_what_a_recipe_allows(shift, brightness, expected):
    pose = Pose(20, 40, (0.0,) * 40, 0, (shift,) * 40, brightness, False, False, (0.5, 1.0), 1.0)
    limits = LIMITS if shift == 0.9 else LIMITS | {"shift": (20, 64), "brightness": (0.3, 0.5)}
    assert propose(pose, "camera", USUAL, limits=limits, image_size=224).strengths == expected


def test_gain_is_the_share_of_what_was_unlike_that_is_gone():
    assert gain(0.5, 1.0) == 1
    assert gain(0.5, 0.5) == 0
    assert gain(1.0, 1.0) == 0
