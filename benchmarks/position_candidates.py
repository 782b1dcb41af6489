"""Other dense heads than a Gaussian at each position, or one of all: do they earn a place?

    python benchmarks/position_candidates.py --output results -s variation.preset=none
    python benchmarks/position_candidates.py --output results -s variation.preset=none --scattered

For each set and seed, on the frozen encoder's dense grid: image AUROC on test images of the largest distance at
any position, by head, with the MiB that the head keeps and milliseconds an image without the encoder.

* `fixed`, `free`: the two heads that there are.
* `fixed 3 x 3`, `free 3 x 3`: the same on features averaged over 3 x 3 positions before.
* `shared covariance`: a mean at each position, one covariance of all positions.
* `neighbours`: mean distance to the 3 nearest of 8,000 random patches of training images, all whitened by the
  covariance of `free`.

With `--scattered` every image is rolled by an offset of its own, see `position.py`.

Writes `position_candidates.csv`, a row for each head; sets and seeds that it has are not run again. Prints the
means over seeds, and which head would be chosen for each set from the other sets.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from position import scatter
from sets import grid, grid_options, label_of
from torch import Tensor

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.gaussian.levels import choose_dense_levels, kept_channels
from anomaly_ft.model.gaussian.settings import DetectorSettings
from anomaly_ft.model.gaussian.statistics import Gaussian, fit, moments, squared_distance, squared_distances
from anomaly_ft.model.maps import grid_shape, on_grid
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare

RUN = ["set", "seed", "settings"]
PATCHES = 8000
NEAREST = 3
FREE = ["free", "free 3 x 3", "neighbours"]  # heads to which a position means nothing
Head = Callable[[Tensor], Tensor]  # features (n, positions, d) to distances (n, positions)


def features(setup: Setup, pixels: Pixels) -> Tensor:
    """Features of all images on the dense grid, `(n, positions, d)`, held in memory."""
    settings, encoder = setup.detector_settings(), setup.encoder
    levels = choose_dense_levels(encoder, settings.dense_levels)
    kept = kept_channels(encoder, levels, settings.dense_dimensions)
    shape = grid_shape(settings.grid, encoder.image_size)
    parts = []
    with torch.inference_mode(), encoder.folded():
        for images in setup.compute.batches(pixels):
            maps = encoder(images)
            parts.append(on_grid([maps[i] for i in levels], shape, kept.to(images.device)).cpu())
    return torch.cat(parts)


def averaged(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Average features `(n, positions, d)` over 3 x 3 positions; at the border over those that there are."""
    maps = values.mT.unflatten(2, shape)
    return F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False).flatten(2).mT.contiguous()


def distance_to(gaussian: Gaussian) -> Head:
    """Mahalanobis distance to one Gaussian, or to one at each position."""
    measure = squared_distance if gaussian.mean.dim() == 1 else squared_distances

    def head(values: Tensor) -> Tensor:
        rows = values.flatten(0, 1) if gaussian.mean.dim() == 1 else values
        return measure(rows, gaussian.mean, gaussian.whitening).sqrt().view(values.shape[:2])

    return head


def gaussians(train: Tensor, settings: DetectorSettings) -> dict[str, tuple[Head, int]]:
    """Both heads that there are, fitted to `(n, positions, d)`, and how many numbers each keeps."""
    made = {}
    for name, rows in (("fixed", train), ("free", train.flatten(0, 1))):
        gaussian = fit(moments(rows), settings.shrinkage, floor=settings.variance_floor, dtype=torch.float32)
        made[name] = distance_to(gaussian), gaussian.mean.numel() + gaussian.whitening.numel()
    return made


def shared_covariance(train: Tensor, settings: DetectorSettings) -> tuple[Head, int]:
    """A mean at each position and one covariance of all."""
    means = train.mean(0)
    left = (train - means).flatten(0, 1)
    gaussian = fit(moments(left), settings.shrinkage, floor=settings.variance_floor, dtype=torch.float32)
    head = distance_to(gaussian)
    return lambda values: head(values - means), means.numel() + gaussian.whitening.numel()


def neighbours(train: Tensor, settings: DetectorSettings, seed: int) -> tuple[Head, int]:
    """Distance to the nearest of random whitened patches of training images."""
    rows = train.flatten(0, 1)
    gaussian = fit(moments(rows), settings.shrinkage, floor=settings.variance_floor, dtype=torch.float32)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:PATCHES]
    bank = (rows[chosen] - gaussian.mean) @ gaussian.whitening.mT

    def head(values: Tensor) -> Tensor:
        white = (values.flatten(0, 1) - gaussian.mean) @ gaussian.whitening.mT
        nearest = [
            torch.cdist(part, bank).topk(NEAREST, largest=False).values.mean(1) for part in white.split(4096)
        ]
        return torch.cat(nearest).view(values.shape[:2])

    return head, bank.numel() + gaussian.whitening.numel()


def heads_of(train: Tensor, setup: Setup) -> dict[str, tuple[Head, int]]:
    """All heads, fitted to features `(n, positions, d)` of training images."""
    settings = setup.detector_settings()
    shape = grid_shape(settings.grid, setup.encoder.image_size)
    local = gaussians(averaged(train, shape), settings)
    return {
        **gaussians(train, settings),
        **{f"{name} 3 x 3": (_before(head, shape), count) for name, (head, count) in local.items()},
        "shared covariance": shared_covariance(train, settings),
        "neighbours": neighbours(train, settings, setup.recipe.seed),
    }


def _before(head: Head, shape: tuple[int, int]) -> Head:
    return lambda values: head(averaged(values, shape))


def measure(setup: Setup) -> pd.DataFrame:
    """A row for each head."""
    train = features(setup, setup.varied("train").pixels)
    test = features(setup, setup.data.test.pixels)
    anomalous = np.array([record.anomalous for record in setup.data.test.records])
    rows = []
    for name, (head, count) in heads_of(train, setup).items():
        started = time.perf_counter()
        scores = head(test).amax(1).double().numpy()
        spent = 1000 * (time.perf_counter() - started) / len(test)
        auroc = image_auroc(anomalous, scores)
        rows.append({"head": name, "auroc": auroc, "mib": 4 * count / 2**20, "ms_image": spent})
    return pd.DataFrame(rows)


def chosen_elsewhere(means: pd.DataFrame) -> pd.DataFrame:
    """For each set the head that is best on the mean of the others, of all and of those that know no positions,
    and what it reaches beside the head that is there."""
    lines = []
    for name in means.columns:
        others = means.drop(columns=name).mean(axis=1)
        for known, heads in (("fixed", list(means.index)), ("free", FREE)):
            best = others[heads].idxmax() if len(means.columns) > 1 else known
            reached = {"auroc": means.loc[best, name], "beside": known, "its auroc": means.loc[known, name]}
            lines.append({"set": name, "chosen": best} | reached)
    return pd.DataFrame(lines)


@click.command()
@grid_options(sets="kolektor,mtd,macaroni1,bottle", seeds=1)
@click.option("--scattered", is_flag=True, help="Roll every image by an offset of its own.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: bool) -> None:
    """Run the grid and print the tables."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "position_candidates.csv", label_of(settings)
    label += " scattered" if asked["scattered"] else ""
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=RUN)
    done = set(table[RUN].itertuples(index=False, name=None))
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        if (name, seed, label) in done:
            continue
        setup = prepare(recipe, terminal)
        setup = scatter(setup) if asked["scattered"] else setup
        new = measure(setup).assign(set=name, seed=seed, settings=label)
        table = pd.concat([table, new]) if len(table) else new
        table.to_csv(path, index=False)
        terminal.say(new.drop(columns=["settings"]).to_string(index=False, float_format="{:.4f}".format))
    rows = table[table["settings"] == label]
    means = rows.pivot_table(index="head", columns="set", values="auroc", sort=False)
    costs = rows.groupby("head", sort=False)[["mib", "ms_image"]].mean()
    print(means.assign(mean=means.mean(axis=1)).join(costs).to_string(float_format="{:.4f}".format))
    print("\nthe head that is best on the other sets, beside one that is there")
    print(chosen_elsewhere(means).to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
