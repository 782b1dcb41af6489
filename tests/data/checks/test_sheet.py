"""The sheet of varied images: every change at its full strength, each against what it is known to do."""

import io

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.checks.sheet import ACROSS, FULL, HEADINGS, MIXED, variation_sheet, varied_columns
from anomaly_ft.data.variation import CHANGES
from anomaly_ft.recipe.variation import PRESETS

FREE = PRESETS["free"]


def flat(value=100):
    return np.full((40, 40, 3), value, np.uint8)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(60, 190, (40, 40, 3), np.uint8)


def test_every_change_has_a_heading_and_a_full_strength():
    assert set(FULL) == set(HEADINGS) == set(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows_and_repeats(change, picture):
    first, again = (FULL[change](picture, FREE[change], 1) for _ in range(2))
    assert first.shape == picture.shape
    assert first.dtype == np.uint8
    assert (first != picture).any()
    assert np.array_equal(first, again)


def test_light_goes_to_both_ends_of_its_strength():
    assert [FULL["brightness"](flat(), 0.2, row).mean() for row in (0, 1)] == [120, 80]
    gamma = [FULL["gamma"](flat(), 0.3, row).mean() for row in (0, 1)]
    assert gamma == pytest.approx([255 * (100 / 255) ** (2**power) for power in (0.3, -0.3)], abs=1)
    halves = flat(80)
    halves[:20] = 160
    spread = [np.ptp(FULL["contrast"](halves, 0.2, row).astype(int)) for row in (0, 1)]
    assert spread == pytest.approx([96, 64], abs=1)
    casts = [FULL["white_balance"](flat(), 0.05, row)[0, 0].tolist() for row in (0, 1)]
    assert casts == [[105, 100, 95], [95, 100, 105]]
    assert np.ptp(FULL["uneven_light"](flat(), 0.05, 0)) == pytest.approx(0.05 * 255, abs=3)


def test_places_are_as_far_as_they_may_be():
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 30] = 255
    moved = [np.argwhere(FULL["shift"](dot, 4, row)[..., 0] == 255).tolist() for row in (0, 1)]
    assert moved == [[[24, 34]], [[16, 26]]]
    assert np.array_equal(FULL["rotation"](dot, 90, 0), np.rot90(dot))
    assert np.array_equal(FULL["rotation"](dot, 90, 1), np.rot90(dot, -1))
    line = np.zeros((101, 101, 3), np.uint8)
    line[:, 30:71] = 255
    widths = [(FULL["scale"](line, 0.1, row)[50, :, 0] > 127).sum() for row in (0, 1)]
    assert widths == pytest.approx([45, 37], abs=1)


def test_turns_by_all_angles_are_not_alike_in_each_row(picture):
    turned = [FULL["rotation"](picture, 180, row) for row in range(4)]
    assert np.array_equal(turned[3], np.rot90(picture, 2))
    assert all((turned[i] != turned[j]).any() for i in range(4) for j in range(i))


def test_camera_faults_are_as_strong_as_said():
    assert FULL["noise"](flat(), 5, 0).std() == pytest.approx(5, rel=0.1)
    line = np.zeros((41, 41, 3), np.uint8)
    line[:, 20] = 255
    spread = FULL["focus"](line, 2, 1)[20, :, 0].astype(float)
    assert (spread * (np.arange(41) - 20) ** 2).sum() / spread.sum() == pytest.approx(4, rel=0.1)


def test_compression_is_jpeg_of_that_quality(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=50)
    by_pillow = np.asarray(Image.open(file)).astype(float)
    by_change = FULL["compression"](picture, 50, 0).astype(float)
    apart = np.abs(picture - by_pillow).mean()
    assert np.abs(picture - by_change).mean() == pytest.approx(apart, rel=0.1)


def test_noise_of_a_grey_camera_is_grey_and_of_a_colour_camera_is_not(picture):
    assert np.ptp(FULL["noise"](flat(), 5, 0), axis=2).max() == 0
    assert np.ptp(FULL["noise"](picture, 5, 0).astype(int) - picture, axis=2).max() > 0


def test_columns_are_the_image_each_change_and_some_as_in_a_run(picture):
    columns = varied_columns(np.stack([picture] * 3), FREE, 0)
    assert next(iter(columns)) == "as it is"
    assert len(columns) == 1 + len(FREE) + MIXED
    assert all(len(images) == 3 for images in columns.values())
    assert "brightness\n±15%" in columns
    assert "compression\nJPEG quality 50" in columns


def test_grey_images_have_no_column_for_colours():
    assert not any("white_balance" in heading for heading in varied_columns(flat()[None], FREE, 0))


def test_where_nothing_varies_images_stand_alone(picture):
    assert list(varied_columns(picture[None], {}, 0)) == ["as it is"]


def test_a_sheet_has_room_for_all_columns_and_shows_them(picture):
    images = np.stack([picture] * 2)
    sheet = variation_sheet(images, FREE)
    bands = -(-len(varied_columns(images, FREE, 0)) // ACROSS)
    assert sheet.width >= ACROSS * 40
    assert sheet.height >= bands * 2 * 40
    drawn = np.asarray(sheet)
    for image in (picture, FULL["contrast"](picture, FREE["contrast"], 1)):
        assert any(
            np.array_equal(drawn[y : y + 40, x : x + 40], image)
            for y, x in np.argwhere((drawn[:-39, :-39] == image[0, 0]).all(2))
        )
