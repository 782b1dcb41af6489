"""Masks as labelling tools and people save them: one square defect, however it is drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.masks import read_mask

TRUE = np.zeros((64, 48), bool)
TRUE[20:40, 10:30] = True
ON = TRUE.astype(np.uint8) * 255
OFF = np.zeros_like(ON)
WHITE = OFF + 255


def palette(colours):
    image = Image.fromarray(ON // 255)
    image.putpalette([value for colour in colours for value in colour] + [0] * (768 - 3 * len(colours)))
    return image


DRAWN = {
    "grey": Image.fromarray(ON),
    "ones": Image.fromarray(ON // 255),
    "one bit": Image.fromarray(ON).convert("1"),
    "red on black": Image.fromarray(np.dstack([ON, OFF, OFF])),
    "sixteen bits": Image.fromarray(ON.astype(np.uint16) * 257),
    "grey, all opaque": Image.fromarray(np.dstack([ON, WHITE])),
    "red on transparent black": Image.fromarray(np.dstack([ON, OFF, OFF, ON])),
    "red on transparent white": Image.fromarray(np.dstack([WHITE, 255 - ON, 255 - ON, ON])),
    "black on transparent": Image.fromarray(np.dstack([OFF, OFF, OFF, ON])),
    "black on transparent, grey": Image.fromarray(np.dstack([OFF, ON])),
    "white, transparent everywhere": Image.fromarray(np.dstack([ON, ON, ON, OFF])),
    "palette, white background": palette([(255, 255, 255), (255, 0, 0)]),
    "palette, black for both": palette([(0, 0, 0), (0, 0, 0)]),
    "palette, as VOC": palette([(0, 0, 0), (128, 0, 0)]),
}


@pytest.mark.parametrize("how", DRAWN)
def test_a_mask_means_the_same_however_it_is_drawn(tmp_path, how):
    DRAWN[how].save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), TRUE)


def test_a_transparent_colour_of_a_palette_is_background(tmp_path):
    palette([(255, 0, 0), (0, 0, 0)]).save(tmp_path / "mask.png", transparency=1)
    assert not read_mask(tmp_path / "mask.png").any()


def test_an_opaque_background_within_a_see_through_margin_stays_background(tmp_path):
    opacity = WHITE.copy()
    opacity[:5] = 0
    Image.fromarray(np.dstack([ON, ON, ON, opacity])).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), TRUE)


@pytest.mark.parametrize("quality", [60, 95])
def test_the_edges_of_a_jpeg_do_not_make_a_mask_larger(tmp_path, quality):
    Image.fromarray(ON).save(tmp_path / "mask.jpg", quality=quality)
    assert np.mean(read_mask(tmp_path / "mask.jpg") != TRUE) < 0.01


def test_an_empty_jpeg_mask_is_empty(tmp_path):
    Image.fromarray(OFF).save(tmp_path / "mask.jpg")
    assert not read_mask(tmp_path / "mask.jpg").any()


def test_masks_in_one_folder_count_together(tmp_path):
    left, right = TRUE.copy(), TRUE.copy()
    left[:, 20:] = right[:, :20] = False
    for name, half in (("000.png", left), ("001.png", right)):
        Image.fromarray(half).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path), TRUE)
    Image.fromarray(TRUE[:5]).save(tmp_path / "002.png")
    with pytest.raises(ValueError, match="3 masks of 2 sizes"):
        read_mask(tmp_path)


def labelme(path, shape_type, points):
    shapes = [{"label": "scratch", "shape_type": shape_type, "points": points}]
    path.write_text(json.dumps({"shapes": shapes, "imageWidth": 48, "imageHeight": 64}))
    return path


def test_outlines_of_labelme_are_filled(tmp_path):
    path = labelme(tmp_path / "0.json", "polygon", [[10, 20], [29, 20], [29, 39], [10, 39]])
    assert np.array_equal(read_mask(path), TRUE)
    assert np.array_equal(read_mask(labelme(path, "rectangle", [[29, 39], [10, 20]])), TRUE)
    circle = read_mask(labelme(path, "circle", [[24, 32], [24, 42]]))
    assert circle.sum() == pytest.approx(np.pi * 100, rel=0.15)


def test_an_outline_without_an_area_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="type line marks no area"):
        read_mask(labelme(tmp_path / "0.json", "line", [[0, 0], [9, 9]]))


POLYGON = [[10, 20, 29, 20, 29, 39, 10, 39]]
RUNS = [10 * 64 + 20, *[20, 44] * 19, 20, 24 + 18 * 64]


@pytest.mark.parametrize("drawn", [POLYGON, {"counts": RUNS, "size": [64, 48]}], ids=["polygon", "runs"])
def test_outlines_of_coco_are_filled_but_for_good_categories_and_other_images(drawn, tmp_path):
    table = {
        "images": [{"id": 7, "width": 48, "height": 64}, {"id": 8, "width": 48, "height": 64}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "segmentation": drawn},
            {"image_id": 7, "category_id": 2, "segmentation": [[0, 0, 9, 0, 9, 9]]},
            {"image_id": 8, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]},
            {"image_id": 9, "category_id": 1, "bbox": [0, 0, 9, 9]},
        ],
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "ok"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(table))
    assert np.array_equal(read_mask(tmp_path / "all.json#7"), TRUE)
    with pytest.raises(ValueError, match="no image has the id 9"):
        read_mask(tmp_path / "all.json#9")
    table["images"].append({"id": 9, "width": 48, "height": 64})
    (tmp_path / "boxes.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match="without an outline"):
        read_mask(tmp_path / "boxes.json#9")
