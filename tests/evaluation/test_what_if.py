"""What if the light changes: rows of growing variation, from a score whose answer is known."""

from pathlib import Path

import numpy as np
import pytest

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import AT_ONCE
from anomaly_ft.evaluation.what_if import (
    FACTORS,
    MOST,
    SEVERAL,
    UNCHANGED,
    beside,
    few_of_each,
    what_if,
    what_if_figure,
)
from anomaly_ft.recipe.variation import stronger

STRENGTHS = {"brightness": 0.2, "shift": 2.0}


def flat_images(good, bad):
    """Grey images of 100; a bad one has a white corner."""
    pixels = np.full((good + bad, 16, 16, 3), 100, np.uint8)
    pixels[good:, :4, :4] = 255
    kinds = ["good"] * good + ["scratch"] * bad
    records = tuple(Record(Path(), f"{i}.png", "test", kind) for i, kind in enumerate(kinds))
    return Images(pixels, records)


def brightness(pixels):
    """A score that takes light for an anomaly: the distance of the median from 100."""
    return np.abs(np.median(np.asarray(pixels), axis=(1, 2, 3)) - 100.0)


def rows_of(images, score=brightness, threshold=2.0):
    return what_if(score, threshold, images, lambda factor: stronger(STRENGTHS, factor), seed=0)


def by_change(rows):
    return {(row["change"], row["factor"]): row for row in rows}


def test_a_row_for_each_change_and_strength_and_for_several_at_once():
    rows = rows_of(flat_images(10, 10))
    expected = [(UNCHANGED, 0)] + [(change, f) for f in FACTORS for change in (*STRENGTHS, SEVERAL)]
    assert [(row["change"], row["factor"]) for row in rows] == expected
    assert by_change(rows)["brightness", 2]["strength"] == 0.4
    assert by_change(rows)[SEVERAL, 1]["strength"] is None


def test_the_row_of_several_changes_says_how_many_meet_in_an_image():
    assert AT_ONCE == 3
    assert SEVERAL == "one to three at once"


def test_a_score_that_takes_light_for_an_anomaly_rejects_more_good_images_the_more_light_changes():
    rows = by_change(rows_of(flat_images(20, 0), threshold=10))
    assert rows[UNCHANGED, 0]["rejected"] == 0
    assert 0 < rows["brightness", 1]["rejected"] < rows["brightness", 2]["rejected"]
    assert rows["shift", 2]["rejected"] == 0, "the middle of a flat image does not move"


def test_what_no_change_touches_is_told_apart_whatever_changes():
    def corner(pixels):
        flat = np.asarray(pixels, float)
        return flat.max((1, 2, 3)) - np.median(flat, axis=(1, 2, 3))

    rows = rows_of(flat_images(8, 8), score=corner, threshold=50)
    assert {row["auroc"] for row in rows} == {1.0}
    assert {row["rejected"] for row in rows} == {0.0}


def test_good_images_alone_give_no_auroc():
    assert {row["auroc"] for row in rows_of(flat_images(5, 0))} == {None}


def test_both_detectors_stand_beside_each_other():
    images = flat_images(6, 6)
    frozen, tuned = rows_of(images, threshold=0.5), rows_of(images, threshold=1000)
    both = beside(frozen, tuned)
    assert [row["frozen_rejected"] for row in both] == [row["rejected"] for row in frozen]
    assert [row["rejected"] for row in both] == [row["rejected"] for row in tuned]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        beside(frozen[:-1], tuned)


def test_a_detector_that_has_nothing_beside_it_stands_alone():
    rows = beside([], rows_of(flat_images(6, 6)))
    assert {row["frozen_auroc"] for row in rows} == {row["frozen_rejected"] for row in rows} == {None}
    rejected = what_if_figure(rows).axes[1]
    assert [text.get_text() for text in rejected.get_legend().get_texts()] == [f"detector, {SEVERAL}"]


def test_a_few_of_each_kind_are_looked_at_evenly_chosen():
    few = few_of_each(flat_images(100, 10))
    assert len(few) == MOST + 10
    names = [int(record.name[:-4]) for record in few.records]
    assert names[0] == 0
    assert names[MOST - 1] == 99
    assert np.array_equal(few.pixels[MOST], flat_images(100, 10).pixels[100])


def test_the_figure_draws_both_detectors_and_both_questions():
    images = flat_images(6, 6)
    figure = what_if_figure(beside(rows_of(images), rows_of(images)))
    auroc, rejected = figure.axes
    assert len(auroc.lines) == len(rejected.lines) == 2 * (len(STRENGTHS) + 1)
    assert [text.get_text() for text in rejected.get_legend().get_texts()] == [
        f"frozen, {SEVERAL}",
        f"fine-tuned, {SEVERAL}",
    ]
