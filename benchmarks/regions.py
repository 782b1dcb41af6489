"""Do regions keep the number of false alarms that they promise, and do they outline defects better?

    python benchmarks/regions.py --output results --seeds 3

Frozen encoder, with varied copies in the statistics as by default. For each set and seed the calibration images
say what chance does in maps of good images; then regions are found in the test images, as they are and varied
as the recipe says, with 0.01, 0.1 and 1 false alarms allowed a good image. Beside them stand the plain limit of
the map, which no place of an unsuspicious image exceeds, and one set like regions to 0.1 (`limit 0.1`); their
alarms are the connected places above.

* alarms: of a good test image, on average; *alarms varied* of its varied copy
* found: share of defective test images with an alarm
* f1: of all pixels of the test images as they are, inside an alarm against inside a mask

Maps are kept (`SET-SEED.npz`); what is there is not computed again. Writes `regions.csv`, prints the means over
seeds. Sets and where they lie: see `sets.py`. No test image chooses anything.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from sets import grid, grid_options
from variation import varied_test

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.masks import read_mask
from anomaly_ft.evaluation.chance import Chance, learn_chance
from anomaly_ft.evaluation.localisation import image_size
from anomaly_ft.evaluation.pixel_counts import CalledPixels
from anomaly_ft.evaluation.regions import find_regions, place
from anomaly_ft.model.inference import predict
from anomaly_ft.model.maps import upsample
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.finish import calibrate
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import METHODS

EPSILONS = (0.01, 0.1, 1.0)
Maps = Mapping[str, NDArray[Any]]
Row = dict[str, object]


def maps_of(recipe: Recipe, terminal: Terminal, path: Path) -> Maps:
    """Maps of calibration and test images of the frozen encoder, from the file where that is there."""
    if not path.is_file():
        setup = prepare(recipe, terminal)
        detector = calibrate(setup, METHODS["gaussian"](setup).refit("refit", watching=False).detector).detector
        varied = predict(detector, setup.varied("calibration").pixels, setup.compute).localises
        count, records = len(setup.data.normals("calibration").records), setup.data.test.records
        tests = [predict(detector, varied_test(setup, s), setup.compute).localises for s in (0.0, 1.0)]
        np.savez(
            path,
            calibration=varied.reshape(-1, count, *varied.shape[1:]),
            limit=np.array(detector.map_threshold(), dtype=float),
            clean=tests[0],
            varied=tests[1],
            anomalous=np.array([record.anomalous for record in records]),
            paths=np.array([str(record.path) for record in records]),
            masks=np.array([str(record.mask or "") for record in records]),
        )
    with np.load(path) as stored:
        return dict(stored)


def rows_of(maps: Maps, decoder: Decoder) -> Iterator[Row]:
    """A row for each plain limit and for each number of false alarms allowed."""
    chance, bad = learn_chance(maps["calibration"]), maps["anomalous"]
    alarms = {kind: [nfas(map_, chance) for map_ in maps[kind]] for kind in ("clean", "varied")}
    limits = {"limit": float(maps["limit"]), "limit 0.1": limit_at(maps["calibration"], 0.1)}
    for rule, limit in limits.items():
        above = {kind: np.array([ndimage.label(m > limit)[1] for m in maps[kind]]) for kind in alarms}
        yield {"rule": rule, **summary(above, bad), "f1": f1(maps, partial(beyond, limit, decoder))}
    for epsilon in EPSILONS:
        counts = {kind: np.array([(n <= epsilon).sum() for n in found]) for kind, found in alarms.items()}
        called = partial(inside, chance, epsilon, decoder)
        yield {"rule": f"{epsilon:g}", **summary(counts, bad), "f1": f1(maps, called)}


def limit_at(calibration: NDArray[Any], rate: float) -> float:
    """The lowest limit that so many calibration images exceed, counted as regions are: the new image with one,
    images and their copies by the higher of both."""
    highest = calibration.max((2, 3))
    clean, copies = highest[0], highest[1:] if len(highest) > 1 else highest
    for limit in np.sort(highest.ravel()):
        above = max((clean > limit).mean(), (copies > limit).mean()) * len(clean)
        if (above + 1) / (len(clean) + 1) <= rate:
            return float(limit)
    return float(highest.max())


def beyond(limit: float, decoder: Decoder, map_: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of an image of this size that exceed a limit of its map."""
    return np.asarray(upsample(map_, *size, decoder) > limit)


def inside(
    chance: Chance, epsilon: float, decoder: Decoder, map_: NDArray[Any], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Pixels of an image of this size that lie in its regions."""
    called = np.zeros(size, dtype=bool)
    for region in find_regions(map_, chance, epsilon):
        placed = place(region, *size, decoder)
        called |= placed.inside if placed else False
    return called


def nfas(map_: NDArray[Any], chance: Chance) -> NDArray[np.float64]:
    """Numbers of false alarms of a map's regions, as far as they are asked for."""
    return np.array([region.nfa for region in find_regions(map_, chance, max(EPSILONS))])


def summary(counts: Mapping[str, NDArray[np.int64]], bad: NDArray[np.bool_]) -> Row:
    """Alarms of good images and defects found, from the alarms of each image."""
    clean, varied = counts["clean"], counts["varied"]
    return {
        "good images": int((~bad).sum()),
        "alarms": clean[~bad].mean(),
        "alarms varied": varied[~bad].mean(),
        "rejected": (clean[~bad] > 0).mean(),
        "rejected varied": (varied[~bad] > 0).mean(),
        "found": (clean[bad] > 0).mean(),
    }


def f1(maps: Maps, call: Callable[[NDArray[Any], tuple[int, int]], NDArray[np.bool_]]) -> float | None:
    """Pixel F1 of what is called anomalous; images without a mask are left out."""
    counted = CalledPixels(0.5)
    for map_, path, mask_path, bad in zip(
        maps["clean"], maps["paths"], maps["masks"], maps["anomalous"], strict=True
    ):
        if bad and not mask_path:
            continue
        mask = read_mask(Path(str(mask_path))) if mask_path else None
        size = mask.shape if mask is not None else image_size(Path(str(path)))
        counted.add(call(map_, (size[0], size[1])).astype(np.float32), mask)
    return counted.f1()


@click.command()
@grid_options(sets="bottle,kolektor", seeds=3)
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Find regions with each set and seed, and see what they are worth."""
    output.mkdir(parents=True, exist_ok=True)
    terminal, rows = Terminal(), list[Row]()
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        maps = maps_of(recipe, terminal, output / f"{name}-{seed}.npz")
        decoder = Decoder(recipe.data.image_size, recipe.data.resize)
        rows += [{"set": name, "seed": seed, **row} for row in rows_of(maps, decoder)]
        pd.DataFrame(rows).to_csv(output / "regions.csv", index=False)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    means = table.drop(columns="seed").groupby(["set", "rule"], sort=False).mean()
    print(means.to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
