"""What only some good training images have at one place is named."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.data.checks.marks import FEWEST, _two_groups, find_mark


def parts(count: int, seed: int = 0) -> np.ndarray:
    """Grey thumbnails of one part, in other light and with a texture of their own."""
    chance = np.random.default_rng(seed)
    part = 40 + 60 * chance.random((32, 32))
    light = chance.uniform(0.9, 1.1, (count, 1, 1))
    return np.clip(part * light + chance.normal(0, 1, (count, 32, 32)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize(("row", "column", "place"), [(1, 28, "top right"), (15, 15, "middle centre")])
def test_a_mark_is_found_and_so_is_where_it_is(share: float, row: int, column: int, place: str) -> None:
    images = parts(60)
    marked = np.random.default_rng(1).permutation(60)[: round(share * 60)]
    images[marked, row : row + 3, column : column + 3] = 255
    mark = find_mark(images)
    assert mark is not None
    assert mark.place == place
    assert set(mark.images) == set(marked.tolist()) or (share == 0.5 and not set(mark.images) & set(marked))


def test_parts_that_differ_little_by_little_have_none() -> None:
    images = parts(60)
    shades = np.linspace(0, 250, 60).astype(np.uint8)
    images[:, :4, :4] = np.random.default_rng(0).permutation(shades)[:, None, None]
    assert find_mark(images) is None


def test_other_light_and_plain_images_are_no_mark() -> None:
    images = parts(60)
    images[:20] = np.clip(images[:20] * 1.8, 0, 255)
    assert find_mark(images) is None
    assert find_mark(np.full((60, 32, 32), 7, np.uint8)) is None


def test_one_odd_image_or_few_images_are_no_mark() -> None:
    images = parts(60)
    images[3, :4, :4] = 255
    assert find_mark(images) is None
    few = parts(FEWEST - 1)
    few[:5, :4, :4] = 255
    assert find_mark(few) is None
    enough = np.concatenate([few, parts(1, seed=2)])
    assert find_mark(enough) is not None


def test_groups_are_those_that_explain_most_of_the_variance() -> None:
    values = np.sort(np.random.default_rng(0).gamma(0.5, 2.0, (40, 5)), axis=0)
    apart, border = _two_groups(values)
    for column, found, between in zip(values.T, apart, border, strict=True):
        within = {k: k * column[:k].var() + (40 - k) * column[k:].var() for k in range(2, 39)}
        best = min(within, key=lambda k: within[k])
        spread = np.sqrt((column[:best].var() + column[best:].var()) / 2)
        assert found == pytest.approx((column[best:].mean() - column[:best].mean()) / spread)
        assert column[best - 1] <= between <= column[best]


def test_data_names_the_images_with_the_mark(tmp_path: Path) -> None:
    (tmp_path / "part" / "good").mkdir(parents=True)
    for i, image in enumerate(np.repeat(np.repeat(parts(30), 2, 1), 2, 2)):
        if i % 5 == 0:
            image[:8, :8] = 255
        Image.fromarray(image).save(tmp_path / "part" / "good" / f"{i:02d}.png")
    result = CliRunner().invoke(main, ["data", str(tmp_path / "part")])
    assert result.exit_code == 0, result.output
    assert "mark: 6 of 30 good training images differ from the others at one place" in result.stdout
    assert "at the top left" in result.stdout
    assert "good/25.png" in result.stdout
