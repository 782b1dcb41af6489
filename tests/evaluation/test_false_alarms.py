"""Rejected good images beside what was promised."""

import numpy as np
import pytest

from anomaly_ft.evaluation.false_alarms import far_too_many, promised, say_false_alarms, say_far_too_many
from anomaly_ft.evaluation.working_points import conformal, observed
from anomaly_ft.model.threshold import WorkingPoint

POINT = WorkingPoint(1.0, 0.05, 1 / 13, 12)


@pytest.mark.parametrize("held_out", [12, 40, 200])
def test_good_images_as_before_are_hardly_ever_far_too_many(held_out: int) -> None:
    rng, warned = np.random.default_rng(0), 0
    for _ in range(2000):
        point = conformal(rng.normal(size=held_out), 0.05)
        new = int(rng.integers(1, 400))
        warned += far_too_many(int((rng.normal(size=new) > point.threshold).sum()), new, point)
    assert warned / 2000 <= 0.01


def test_ten_of_twelve_are_far_too_many_and_two_are_not() -> None:
    said = say_far_too_many(10, 12, POINT)
    assert said.startswith(
        "10 of 12 images rejected where at most 7.7 % of good ones was promised: unless so many "
    )
    assert "the images have changed" in said
    assert say_far_too_many(2, 12, POINT) == ""
    assert say_far_too_many(0, 12, POINT) == ""


def test_of_images_known_to_be_good_nobody_says_that_they_may_be_defective() -> None:
    assert say_far_too_many(10, 12, POINT, known_good=True) == (
        "10 of 12 good images rejected where at most 7.7 % was promised: the images have changed (light, "
        "focus, camera, parts?), and the threshold does not hold for them"
    )


def test_images_may_vary_as_the_recipe_allows_before_they_are_far_too_many() -> None:
    point = WorkingPoint(1.0, 0.01, 0.01, 99, varied_fpr=0.2)
    assert promised(point) == 0.2
    assert not far_too_many(30, 150, point)
    assert far_too_many(30, 150, WorkingPoint(1.0, 0.01, 0.01, 99))


def test_false_alarms_stand_on_a_line_beside_the_promise() -> None:
    found = observed(1.0, [0.0] * 409 + [2.0] * 3)
    assert found is not None
    assert say_false_alarms(found, WorkingPoint(1.0, 0.02, 0.024, 83)) == (
        "3 of 412 good images rejected (0.7 %; 95 % interval 0.2 % to 2.1 %), promised at most 2.4 %"
    )
    varied = say_false_alarms(found, WorkingPoint(1.0, 0.02, 0.024, 83, varied_fpr=0.048))
    assert varied.endswith("promised at most 2.4 % (4.8 % varied as the recipe allows)")
