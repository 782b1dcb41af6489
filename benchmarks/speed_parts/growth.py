"""How cost grows: with the number of images, the width of a level, and the size of images."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.fitting import sums_of
from anomaly_ft.model.gaussian.statistics import accumulate
from anomaly_ft.model.gaussian.statistics import fit as fit_gaussian
from speed_parts.alone import SIDE
from speed_parts.clock import CLOCKS, show
from speed_parts.prepared import generate
from speed_parts.settings import few_settings

HERE = Path(__file__).parents[1]

Points = dict[int, float]


def growth(options: argparse.Namespace) -> None:
    found = {**by_images(options), **by_width(options), **by_size(options)}
    rows = []
    for name, points in found.items():
        exponent, upper = exponent_of(points), exponent_of(dict(list(points.items())[-3:]))
        ends = [f"{points[x]:.3g} at {x}" for x in (min(points), max(points))]
        rows.append((name, ", ".join(ends), f"{exponent:.2f}", f"{upper:.2f}"))
    headings = ("", "least and most", "exponent", "of the three largest")
    show(f"growth, {options.clock} seconds, {options.threads} threads", headings, rows)
    draw(found, Path(options.output) / "growth.png")


def exponent_of(points: Points) -> float:
    """The slope of a line through the logarithms."""
    x, y = np.log(list(points)), np.log(list(points.values()))
    return float(np.polyfit(x, y, 1)[0])


def by_images(options: argparse.Namespace) -> dict[str, Points]:
    found: dict[str, Points] = {
        "images: seconds to read": {},
        "images: seconds to fit": {},
        "images: peak MiB": {},
    }
    with tempfile.TemporaryDirectory() as name:
        largest = generate(Path(name) / "all", max(options.counts), SIDE)
        for count in options.counts:
            root = Path(name) / str(count)
            root.mkdir()
            for path in sorted(largest.iterdir())[:count]:
                os.link(path, root / path.name)
            command = [sys.executable, "-m", "speed_parts.alone", "growth", options.clock, str(root)]
            done = subprocess.run(command, capture_output=True, check=True, cwd=HERE)
            for points, value in zip(found.values(), json.loads(done.stdout), strict=True):
                points[count] = value
    return found


def by_width(options: argparse.Namespace) -> dict[str, Points]:
    """Of one level: adding an image to the sums, and the Gaussian from them."""
    now = CLOCKS[options.clock]
    adding, fitting = {}, {}
    for width in options.widths:
        features = torch.from_numpy(np.random.default_rng(0).standard_normal((1024, width), dtype=np.float32))
        batches = [[batch] for batch in features.split(128)]
        accumulate(batches)
        started = now()
        sums = accumulate(batches)
        added = now()
        fit_gaussian(sums[0])
        adding[width], fitting[width] = (added - started) / len(features), now() - added
    return {"width: seconds to add an image": adding, "width: seconds to fit": fitting}


def by_size(options: argparse.Namespace) -> dict[str, Points]:
    """The statistics pass with the default encoder, an image."""
    now, points = CLOCKS[options.clock], {}
    compute = make_compute(device="cpu", precision="auto", batch_size=8)
    for size in options.sizes:
        encoder = compute.prepare(load_encoder(options.encoder, "random", image_size=size))
        pixels = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
        rounds = []
        for _ in range(options.repeats):
            started = now()
            sums_of(encoder, pixels, compute, few_settings(grid=12))
            rounds.append((now() - started) / len(pixels))
        points[size] = min(rounds)
    return {"size: seconds an image": points}


def draw(found: dict[str, Points], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, what in zip(axes, ("images", "width", "size"), strict=True):
        for name, points in found.items():
            if name.startswith(what):
                label = f"{name.partition(': ')[2]}, exponent {exponent_of(points):.2f}"
                axis.loglog(list(points), list(points.values()), "o-", label=label)
        axis.set_xlabel(
            {"images": "images", "width": "width of a level", "size": "size of images in pixels"}[what]
        )
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    print(f"figure: {path}")
