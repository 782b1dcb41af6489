"""Do regions keep the number of false alarms that they promise, and do they outline defects better?

    python benchmarks/regions.py --output results --seeds 3

Frozen encoder, with varied copies in the statistics as by default. For each set and seed the calibration images
say what chance does in maps of good images; then regions are found in the test images, as they are and varied
as the recipe says, with 0.01, 0.1 and 1 false alarms allowed a good image. Beside them stands the plain limit
of the map, which no place of an unsuspicious image exceeds; its alarms are the connected places above it.

* alarms: of a good test image, on average; *alarms varied* of its varied copy
* found: share of defective test images with an alarm
* f1: of all pixels of the test images as they are, inside an alarm against inside a mask

Maps are kept (`SET-SEED.npz`); what is there is not computed again. Writes `regions.csv`, prints the means over
seeds. Sets and where they lie: see `sets.py`. No test image chooses anything.
"""

from collections.abc import Iterator, Mapping
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
    """A row for the plain limit and for each number of false alarms allowed."""
    chance, bad = learn_chance(maps["calibration"]), maps["anomalous"]
    alarms = {kind: [nfas(map_, chance) for map_ in maps[kind]] for kind in ("clean", "varied")}
    limit = float(maps["limit"])
    above = {kind: np.array([ndimage.label(m > limit)[1] for m in maps[kind]]) for kind in alarms}
    yield {"rule": "limit", **summary(above, bad), "f1": f1(maps, decoder, None, chance)}
    for epsilon in EPSILONS:
        counts = {kind: np.array([(n <= epsilon).sum() for n in found]) for kind, found in alarms.items()}
        yield {"rule": f"{epsilon:g}", **summary(counts, bad), "f1": f1(maps, decoder, epsilon, chance)}


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


def f1(maps: Maps, decoder: Decoder, epsilon: float | None, chance: Chance) -> float | None:
    """Pixel F1 of the regions, or of what exceeds the limit; images without a mask are left out."""
    called = CalledPixels(0.5)
    limit = float(maps["limit"])
    for map_, path, mask_path, bad in zip(
        maps["clean"], maps["paths"], maps["masks"], maps["anomalous"], strict=True
    ):
        if bad and not mask_path:
            continue
        mask = read_mask(Path(str(mask_path))) if mask_path else None
        height, width = mask.shape if mask is not None else image_size(Path(str(path)))
        if epsilon is None:
            inside = upsample(map_, height, width, decoder) > limit
        else:
            inside = np.zeros((height, width), dtype=bool)
            for region in find_regions(map_, chance, epsilon):
                placed = place(region, height, width, decoder)
                inside |= placed.inside if placed else False
        called.add(inside.astype(np.float32), mask)
    return called.f1()


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
    print(table.to_string(index=False, float_format="%.3f"))
    means = table.drop(columns="seed").groupby(["set", "rule"], sort=False).mean()
    print(means.to_string(float_format="%.3f"))


if __name__ == "__main__":
    main()
