from pathlib import Path

import pytest

from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import split_normals
from anomaly_ft.errors import DataError


def records(count: int) -> list[Record]:
    return [Record(Path(f"{i}.png"), f"train/good/{i}.png", "train") for i in range(count)]


@pytest.mark.parametrize(("count", "watch", "calibrate"), [(8, 2, 2), (100, 20, 30), (761, 152, 228)])
def test_the_shares_are_disjoint_complete_and_as_large_as_asked(count: int, watch: int, calibrate: int) -> None:
    split = split_normals(records(count), watch=0.2, calibrate=0.3, seed=0)
    assert sorted([*split.fit, *split.watch, *split.calibrate]) == list(range(count))
    assert (len(split.watch), len(split.calibrate)) == (watch, calibrate)


def test_the_seed_decides_the_split() -> None:
    first, again, other = (split_normals(records(50), watch=0.2, calibrate=0.2, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.watch != other.watch
    assert first.calibrate != other.calibrate


def test_the_split_is_drawn_from_everywhere() -> None:
    split = split_normals(records(100), watch=0.3, calibrate=0.3, seed=0)
    for share in (split.watch, split.calibrate):
        assert min(share) < 20
        assert max(share) >= 80


@pytest.mark.parametrize(("count", "watch", "calibrate"), [(5, 0.15, 0.15), (20, 0.05, 0.5), (10, 0.5, 0.4)])
def test_too_few_images_for_a_share_are_an_error(count: int, watch: float, calibrate: float) -> None:
    with pytest.raises(
        DataError, match=rf"^data: {count} normal training images are too few .* at least 2 images"
    ):
        split_normals(records(count), watch=watch, calibrate=calibrate, seed=0)
