"""Planting defective images: shares of the whole, nested, and one test for all."""

import itertools

import pytest

from anomaly_ft.analysis.contamination import dealt, plan, possible, to_plant

SHARES = [0.0, 0.02, 0.05, 0.1, 0.2]


@pytest.mark.parametrize("share", SHARES)
def test_a_share_is_that_of_the_whole_training_set(share: float) -> None:
    count = to_plant(1000, share)
    assert count / (1000 + count) == pytest.approx(share, abs=0.001)


def test_all_shares_leave_the_same_test_and_a_smaller_one_is_part_of_a_larger_one() -> None:
    found = plan(100, 60, SHARES, seed=1)
    assert found.planted[0.0] == ()
    for small, large in itertools.pairwise(SHARES):
        assert set(found.planted[small]) < set(found.planted[large])
    assert sorted((*found.planted[0.2], *found.tested)) == list(range(60))


def test_seeds_plant_other_images() -> None:
    assert plan(100, 60, SHARES, seed=1) == plan(100, 60, SHARES, seed=1)
    assert plan(100, 60, SHARES, seed=1) != plan(100, 60, SHARES, seed=2)


def test_a_share_that_asks_for_too_many_says_how_many_there_are_and_which_can_be_had() -> None:
    with pytest.raises(ValueError, match=r"0\.2 of the training images needs 52 .* 63 there are make 47; 0, 0"):
        plan(209, 63, SHARES, seed=0)
    assert possible(209, 63, SHARES) == [0.0, 0.02, 0.05, 0.1]


@pytest.mark.parametrize("share", [1.0, -0.1, 2.0])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="from 0 up to but not including 1"):
        plan(100, 60, [0.0, share], seed=0)


def test_a_count_is_shared_out_whole_and_in_proportion() -> None:
    for count in range(40):
        parts = dealt(count, [70, 15, 15])
        assert sum(parts) == count
        assert abs(parts[0] - 0.7 * count) <= 1
