"""Regions that chance hardly makes: the tree against labelled images, alarms against noise."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import genpareto

from anomaly_ft.data.images import Decoder
from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.chance import (
    GROWTH,
    SHAPES,
    Chance,
    Positions,
    learn_chance,
    learn_positions,
    pareto_tail,
)
from anomaly_ft.evaluation.region_tree import ROOT, region_tree
from anomaly_ft.evaluation.regions import Region, find_regions, place

SIDE = 10


def noise(count: int, seed: int, blur: float = 0.0, side: int = SIDE) -> NDArray[np.float32]:
    """Maps of distances of Gaussian features; blurred, neighbours have most of them in common."""
    features = np.random.default_rng(seed).normal(size=(count, 12, side, side))
    if blur:
        features = ndimage.gaussian_filter(features, (0, 0, blur, blur), mode="wrap")
        features /= features.std()
    return np.sqrt(np.square(features).sum(1)).astype(np.float32)


@pytest.fixture(scope="module")
def known() -> Chance:
    return learn_chance(noise(100, seed=1)[None])


def test_the_tree_has_the_connected_regions_above_each_value() -> None:
    values = np.random.default_rng(0).permutation(42).reshape(6, 7).astype(float)
    tree = region_tree(values, lowest=12)
    assert len(tree.order) == 30, "positions below are left out"
    for region, position in enumerate(tree.order):
        labels, _ = ndimage.label(values >= values.ravel()[position])  # touching at their sides
        expected = np.flatnonzero(labels.ravel() == labels.ravel()[position])
        assert sorted(tree.members(region)) == expected.tolist()
        assert tree.sizes[region] == len(expected)
        holds = tree.parent[region]
        assert holds == ROOT or set(tree.members(holds)) > set(expected)


def test_chosen_regions_share_no_position_and_the_most_significant_comes_first() -> None:
    rng = np.random.default_rng(3)
    tree = region_tree(rng.normal(size=(9, 9)), -np.inf)
    significance = rng.normal(size=81)
    chosen = list(tree.disjoint(significance))
    members = [position for region in chosen for position in tree.members(region)]
    assert len(members) == len(set(members))
    assert chosen[0] == significance.argmax()
    assert significance[chosen].tolist() == sorted(significance[chosen], reverse=True)
    left = [r for r in range(81) if not set(tree.members(r)) & set(members)]
    assert left == [], "nothing more fits"


def test_shapes_are_never_fewer_than_there_are() -> None:
    exact = [1, 2, 6, 19, 63, 216, 760, 2725, 9910, 36446]  # fixed polyominoes, OEIS A001168
    for n, count in enumerate(exact, start=1):
        assert 1 <= SHAPES * GROWTH**n / n / count < 1.35


@pytest.mark.parametrize("shape", [0.3, 0.0])
def test_a_pareto_tail_is_recovered(shape: float) -> None:
    excesses = np.sort(genpareto.rvs(shape, scale=2.0, size=20_000, random_state=5))
    scale, found = pareto_tail(excesses)
    assert scale == pytest.approx(2.0, rel=0.1)
    assert found == pytest.approx(shape, abs=0.05)


def test_a_tail_that_would_end_is_taken_as_an_exponential_one() -> None:
    excesses = np.sort(np.random.default_rng(0).uniform(size=500))
    assert pareto_tail(excesses) == (excesses.mean(), 0.0)
    assert pareto_tail(np.full(5, 2.0)) == (2.0, 0.0)


def test_shares_are_empirical_and_beyond_them_those_of_the_tail() -> None:
    positions = Positions(1.0, (1.0, 4.0, 9.0), (1.0, 0.5, 0.1), 2.0, 0.25, 1.0, 100)
    squared = np.array([0.0, 1.0, 4.0, 9.0, 12.0, 50.0])
    tail = 0.1 * genpareto.sf([3.0, 41.0], 0.25, scale=2.0)
    assert np.exp(positions.log_share(squared)) == pytest.approx([1.0, 1.0, 0.5, 0.1, *tail])


def test_half_of_the_held_out_positions_are_above_their_median() -> None:
    positions = learn_positions(noise(50, seed=2)[None])
    assert positions.log_share(np.array([positions.usual])) == pytest.approx(np.log(0.5), abs=0.1)


def test_positions_that_rise_together_are_one_area() -> None:
    alone = learn_positions(noise(100, seed=1, side=8)[None])
    blocks = np.kron(noise(100, seed=1, side=8), np.ones((2, 2)))  # four positions of one value
    assert 1 <= alone.area < 1.15
    assert learn_positions(blocks[None]).area == pytest.approx(4 * alone.area, rel=0.1)


def test_significance_is_that_of_independent_areas() -> None:
    positions = Positions(1.0, (0.0, 10.0), (1.0, 0.01), 1.0, 0.0, 2.0, 100)
    expected = -np.log(50**2 * SHAPES * GROWTH**3 / 3 * 0.01**3)  # 6 positions are 3 areas
    assert positions.significance(np.array([10.0]), np.array([6])) == pytest.approx([expected])
    alone = -np.log(50**2 * SHAPES * GROWTH * 0.01)
    assert positions.significance(np.array([10.0]), np.array([1])) == pytest.approx([alone]), "one at least"


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0])
def test_noise_has_no_more_alarms_an_image_than_are_allowed(blur: float, epsilon: float) -> None:
    chance = learn_chance(noise(100, seed=1, blur=blur)[None])
    alarms = sum(len(find_regions(map_, chance, epsilon)) for map_ in noise(200, seed=2, blur=blur))
    error = np.sqrt(epsilon / 200 + epsilon / 100)  # of the new images and of the held-out ones
    assert alarms / 200 <= epsilon + 2 * error


def test_of_two_rates_the_higher_one_counts() -> None:
    clean, touchy = noise(60, seed=1), noise(60, seed=4)
    touchy[:, 2:5, 2:5] *= 1.5  # where copies are varied, a place rises
    both = learn_chance(np.stack([clean, touchy]))
    alarms = sum(len(find_regions(map_, both, 0.2)) for map_ in touchy)
    assert alarms / 60 <= 0.2
    assert sum(len(find_regions(map_, learn_chance(clean[None]), 0.2)) for map_ in touchy) > 60


def test_images_of_one_group_count_once() -> None:
    maps = noise(40, seed=1)[None]
    assert learn_chance(maps).least_observed == 1 / 41
    assert learn_chance(maps, 10).least_observed == 1 / 11
    assert min(learn_chance(maps, 10).rates) > min(learn_chance(maps).rates)


def test_a_planted_blob_is_found_where_it_is(known: Chance) -> None:
    map_ = noise(1, seed=9)[0]
    map_[2:5, 6:9] += 4
    (region,) = find_regions(map_, known, 0.01)
    assert region.nfa <= 0.01
    assert region.inside[2:5, 6:9].sum() >= 7
    assert region.inside.sum() <= 11
    assert region.lowest == map_[region.inside].min()
    assert region.highest == map_[2:5, 6:9].max()


def test_with_more_alarms_allowed_no_region_goes(known: Chance) -> None:
    for map_ in noise(20, seed=11):
        map_[2:4, 2:4] += 1.5
        found = [{r.inside.tobytes(): r.nfa for r in find_regions(map_, known, e)} for e in (0.01, 0.1, 1, 10)]
        for fewer, more in pairwise(found):
            assert fewer.items() <= more.items()


def test_an_image_that_is_off_as_a_whole_has_no_more_regions(known: Chance) -> None:
    for map_ in noise(20, seed=6):
        if np.median(map_) ** 2 >= known.positions.usual:
            usual, brighter = ([r.nfa for r in find_regions(m, known, 10)] for m in (map_, 1.5 * map_))
            assert brighter == pytest.approx(usual, rel=1e-4)


def test_a_larger_map_has_as_many_more_alarms(known: Chance) -> None:
    assert known.nfa(3.0, 4 * SIDE**2) == pytest.approx(4 * known.nfa(3.0, SIDE**2))
    assert known.nfa(3.0, SIDE**2 // 2) == known.nfa(3.0, SIDE**2), "a smaller one has no fewer"


def test_beyond_what_was_seen_alarms_get_fewer_and_fewer(known: Chance) -> None:
    last = known.significances[-1]
    rates = [known.nfa(last + more, SIDE**2) for more in (0, 1, 5, 20)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(2 / 101), "one of 100, and the new one"
    assert rates[1] == pytest.approx(rates[0] * np.exp(-1 / known.excess))


@pytest.mark.parametrize("maps", [np.zeros((2, 3, 2, 2)), np.ones((1, 1, 1, 1)), np.ones((1, 40, 4, 4))])
def test_maps_that_do_not_vary_raise_no_alarm(maps: NDArray[Any]) -> None:
    chance = Chance.restored(json.loads(json.dumps(learn_chance(maps).plain())))
    assert find_regions(maps[0, 0].astype(np.float32), chance, 0.1) == []


def test_maps_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DivergedError, match="1 of 400 scores are not finite"):
        learn_chance(np.where(np.arange(400).reshape(1, 4, 10, 10) == 7, np.nan, 1.0))


def test_what_is_known_comes_back_from_a_file(known: Chance) -> None:
    assert Chance.restored(json.loads(json.dumps(known.plain()))) == known


@pytest.mark.parametrize(
    "change",
    [
        {"excess": 0}, {"images": 0}, {"rates": []}, {"significances": [2.0, 1.0], "rates": [0.2, 0.1]},
        {"significances": [1.0, 2.0], "rates": [0.1, 0.2]}, {"significances": [1.0], "rates": [0.0]},
        {"significances": [float("nan")], "rates": [0.1]}, {"positions": 3}, {"excess": "much"},
    ],
)  # fmt: skip
def test_what_was_tampered_with_is_refused(change: dict[str, object], known: Chance) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Chance.restored(known.plain() | change)


@pytest.mark.parametrize("name", ["usual", "scale", "area", "count", "shape"])
def test_positions_that_were_tampered_with_are_refused(name: str, known: Chance) -> None:
    with pytest.raises(ValueError, match="expected a number above"):
        Chance.restored(known.plain() | {"positions": known.plain()["positions"] | {name: -1}})


def region(rows: slice, columns: slice) -> Region:
    inside = np.zeros((14, 14), dtype=bool)
    inside[rows, columns] = True
    return Region(inside, 1.0, 2.0, 0.01)


def test_a_region_is_placed_where_its_positions_are_in_the_image() -> None:
    placed = place(region(slice(2, 4), slice(4, 7)), 140, 280, Decoder(224))
    assert placed is not None
    assert (placed.left, placed.top, placed.right, placed.bottom) == (80, 20, 140, 40)
    assert placed.area == placed.inside.sum()
    assert 0.8 * 60 * 20 < placed.area <= 60 * 20, "its corners are rounded"


def test_a_region_in_the_border_beside_an_image_is_in_none() -> None:
    wide = Decoder(224, "letterbox")  # of an image twice as wide as high, rows 3 to 10
    assert place(region(slice(0, 2), slice(0, 14)), 100, 200, wide) is None
    assert place(region(slice(5, 7), slice(0, 14)), 100, 200, wide) is not None


def test_an_image_of_fewer_pixels_than_positions_keeps_its_regions() -> None:
    placed = place(region(slice(3, 4), slice(3, 4)), 7, 7, Decoder(224))
    assert placed is not None
    assert placed.area >= 1
