"""What fine-tuning costs beyond the bare arithmetic, and how the cost grows.

    python benchmarks/speed.py $ANOMALY_FT_DATA/mtd --output results
    python benchmarks/speed.py $ANOMALY_FT_DATA/mtd --output results --parts step,fit --repeat 3 --limit 64

Parts, each a table on stdout and a CSV in the output folder; ratios are bare seconds over ours (1 = nothing
lost), medians over interleaved repetitions:

    step      an epoch of training against encoder forward + backward + Adam on tensors in memory
    late      the same with late blocks alone trained: what computing frozen blocks once per image brings
    fit       the pass that fits all Gaussians against a bare forward pass
    estimate  Ledoit-Wolf from streamed sums against scikit-learn on stored features: seconds and memory
    wall      a whole `train`, broken down
    growth    seconds and peak memory against images, width and size, with fitted exponents, and a figure

Run it on a machine that does nothing else. Memory is the peak of a process of its own.
"""

import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from anomaly_ft.data.rows import Rows, as_array
from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.detector import DetectorSettings
from anomaly_ft.model.encoder import Encoder, load_encoder, pool
from anomaly_ft.model.fitting import fit_detector
from anomaly_ft.model.gaussian import accumulate, fit
from anomaly_ft.recipe_file import read_recipe
from anomaly_ft.setup import Setup, prepare
from anomaly_ft.terminal import Terminal
from anomaly_ft.tuning import epochs, loop_state, pseudo_sets
from anomaly_ft.tuning import fit as fit_setup

RECIPE = Path(__file__).parents[1] / "recipes" / "mvtec.yaml"
LATE = "encoder.train_blocks=[blocks.5, blocks.6, conv_head, bn2]"
NO_STOP = ["schedule.patience=1000", "schedule.margin=1000000", "schedule.warmup_epochs=0"]
CHEAP = ["validation.augmentations=[scar]", "validation.severity=0.2", "tracking.mlflow=false"]
IMAGES, WIDTHS, SIZES = (1000, 3000, 10000, 30000), (32, 112, 320, 640, 1280, 1792), (224, 288, 352, 448)


def seconds_of(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """k of y ~ x^k, by least squares in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def setup_on(root: str, limit: int, repeat: int, *settings: str) -> Setup:
    """A prepared run on at most `limit` images to fit."""
    chosen = [f"data.root={root}", f"schedule.max_epochs={repeat}", *CHEAP, *NO_STOP, *settings]
    setup = prepare(read_recipe(RECIPE, chosen), Terminal())
    split = replace(setup.data.split, fit=setup.data.split.fit[:limit])
    return replace(setup, data=replace(setup.data, split=split))


def bare_epoch(setup: Setup, encoder: Encoder, batches: Iterable[torch.Tensor]) -> None:
    """What cannot be left out: forward, backward, Adam."""
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-9)
    for images in batches:
        with setup.compute.fabric.autocast():
            loss = torch.stack([features.square().mean() for features in pool(encoder(images))]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def step(root: str, limit: int, repeat: int, *settings: str) -> pd.DataFrame:
    """Bare seconds over ours for an epoch of training; the bare loop always trains from images."""
    setup = setup_on(root, limit, repeat + 1, *settings)
    frozen = fit_setup(setup)
    pixels = np.asarray(setup.data.normals("fit").pixels)
    size = setup.recipe.optimizer.batch_size
    batches = [setup.compute.batch(pixels[i : i + size]) for i in range(0, len(pixels), size)]
    other = load_encoder(setup.recipe.encoder.name, setup.recipe.encoder.weights, image_size=224)
    other.train_only(setup.recipe.encoder.train_blocks)
    bare = setup.compute.prepare(other)
    rows = []
    for record in epochs(setup, loop_state(setup, frozen), frozen, pseudo_sets(setup, frozen)):
        took = seconds_of(lambda: bare_epoch(setup, bare, batches))
        if record.epoch > 1:  # the first epoch of either warms up
            rows.append({"bare_s": took, "ours_s": record.train_seconds, "ratio": took / record.train_seconds})
    return pd.DataFrame(rows)


def late(root: str, limit: int, repeat: int) -> pd.DataFrame:
    return step(root, limit, repeat, LATE)


def fitting(root: str, limit: int, repeat: int) -> pd.DataFrame:
    """Bare seconds over ours for the statistics of all images."""
    setup = setup_on(root, limit, 1)
    pixels = np.asarray(setup.data.normals("fit").pixels)
    watch = np.asarray(setup.data.normals("watch").pixels)

    def bare() -> None:
        for part in (pixels, watch):
            for images in setup.compute.batches(part):
                with torch.inference_mode(), setup.compute.fabric.autocast():
                    setup.encoder(images)

    def ours() -> None:
        fit_detector(setup.encoder, pixels, watch, setup.compute, setup.detector_settings())

    bare()
    rows = [{"bare_s": seconds_of(bare), "ours_s": seconds_of(ours)} for _ in range(repeat)]
    return pd.DataFrame(rows).assign(ratio=lambda table: table["bare_s"] / table["ours_s"])


def estimate(root: str, limit: int, repeat: int) -> pd.DataFrame:
    """The estimator alone, on made features, each in a process of its own."""
    del root, limit
    rows = []
    for count, width in ((1000, 320), (10000, 320), (10000, 1280)):
        line: dict[str, Any] = {"features": count, "width": width}
        for kind in ("streamed", "sklearn"):
            runs = [child(kind, count, width) for _ in range(repeat)]
            line[f"{kind}_s"] = np.median([run["seconds"] for run in runs])
            line[f"{kind}_mib"] = np.median([run["mib"] for run in runs])
        rows.append(line)
    return pd.DataFrame(rows).assign(ratio=lambda table: table["sklearn_s"] / table["streamed_s"])


def wall(root: str, limit: int, repeat: int) -> pd.DataFrame:
    """A whole run with the default recipe as a command, from its start to its end."""
    del limit, repeat
    code = "import anomaly_ft.run"
    load = seconds_of(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "anomaly_ft", "train", str(RECIPE), "-s", f"data.root={root}"]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--output", output, "--json"], check=True, stdout=subprocess.PIPE, text=True
        )
        total = time.perf_counter() - started
    parts = {"import": load, **json.loads(done.stdout.splitlines()[-1])["seconds"]}
    parts["rest (log, report)"] = total - sum(parts.values())
    rows = [{"part": part, "seconds": value, "share": value / total} for part, value in parts.items()]
    return pd.DataFrame([*rows, {"part": "all", "seconds": total, "share": 1.0}])


def growth(root: str, limit: int, repeat: int) -> pd.DataFrame:
    """Seconds and peak memory over images (64 pixels), width (2,000 features) and size (one step of 8)."""
    del root
    kinds = {"images": [n for n in IMAGES if n <= max(limit, 1000)], "width": WIDTHS, "size": SIZES}
    rows = []
    for kind, values in kinds.items():
        for value in values:
            runs = [child(kind, value, 0) for _ in range(1 if kind == "images" else repeat)]
            rows.append(
                {
                    "of": kind,
                    "value": value,
                    "seconds": np.median([run["seconds"] for run in runs]),
                    "mib": np.median([run["mib"] for run in runs]),
                }
            )
    table = pd.DataFrame(rows)
    for kind, group in table.groupby("of"):
        for what in ("seconds", "mib"):
            k = exponent(group["value"].tolist(), group[what].tolist()) if len(group) > 1 else np.nan
            table.loc[table["of"] == kind, f"{what}_exponent"] = k
    return table


def child(kind: str, value: int, width: int) -> dict[str, float]:
    """One measurement in a process of its own: seconds, and the peak of its memory in MiB."""
    command = [sys.executable, __file__, "--child", f"{kind},{value},{width}", "none"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(kind: str, value: int, width: int) -> float:
    """Seconds of one of the things that `child` measures."""
    rng = np.random.default_rng(0)
    if kind in ("streamed", "width"):
        count, width = (value, width) if kind == "streamed" else (2000, value)
        made = ([torch.from_numpy(rng.standard_normal((100, width)))] for _ in range(count // 100))
        return seconds_of(lambda: fit(accumulate(made)[0]))
    if kind == "sklearn":
        from sklearn.covariance import LedoitWolf

        def stored() -> None:
            LedoitWolf().fit(np.concatenate([rng.standard_normal((100, width)) for _ in range(value // 100)]))

        return seconds_of(stored)
    compute = make_compute(device="cpu", precision="auto")
    size = value if kind == "size" else 64
    encoder = compute.prepare(load_encoder("tf_efficientnet_lite0", "random", image_size=size))
    if kind == "size":
        images = compute.batch(rng.integers(0, 256, (8, size, size, 3), np.uint8))

        def train() -> None:
            with compute.fabric.autocast():
                loss = torch.stack([features.square().mean() for features in pool(encoder(images))]).sum()
            loss.backward()

        train()
        return seconds_of(train)
    base = rng.integers(0, 200, (64, 64, 64, 3), np.uint8)

    def take(wanted: np.ndarray) -> np.ndarray:
        return base[wanted % 64] + (wanted % 50).astype(np.uint8)[:, None, None, None]

    pixels = as_array(Rows(take, np.arange(value), (64, 64, 3)))
    return seconds_of(lambda: fit_detector(encoder, pixels, pixels[:32], compute, DetectorSettings()))


def draw(table: pd.DataFrame, path: Path) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (kind, group) in zip(figure.subplots(1, 3), table.groupby("of", sort=False), strict=True):
        axes.loglog(group["value"], group["seconds"], "o-", label="seconds")
        axes.loglog(group["value"], group["mib"], "s--", color="tab:gray", label="peak MiB")
        axes.set(xlabel=kind, title=f"seconds ~ {kind}^{group['seconds_exponent'].iloc[0]:.2f}")
        axes.legend()
    figure.savefig(path, dpi=110)


PARTS: dict[str, Callable[[str, int, int], pd.DataFrame]] = {
    "step": step,
    "late": late,
    "fit": fitting,
    "estimate": estimate,
    "wall": wall,
    "growth": growth,
}


@click.command()
@click.argument("root")
@click.option("--output", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--repeat", default=5, show_default=True)
@click.option("--limit", default=30000, show_default=True, help="Images at most.")
@click.option("--child", "one", hidden=True)
def main(root: str, output: Path, parts: str, repeat: int, limit: int, one: str | None) -> None:
    """Measure the parts asked for on the images of ROOT."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    if one:
        kind, value, width = one.split(",")
        seconds = measure(kind, int(value), int(width))
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "mib": mib}))
        return
    output.mkdir(parents=True, exist_ok=True)
    for name in parts.split(","):
        table = PARTS[name](root, limit, repeat)
        table.to_csv(output / f"speed_{name}.csv", index=False)
        print(
            f"\n{name} ({torch.get_num_threads()} threads)\n{table.to_string(index=False, float_format='%.3f')}"
        )
        if "ratio" in table and name != "estimate":
            print(f"median ratio {table['ratio'].median():.3f}")
        if name == "growth":
            draw(table, output / "speed_growth.png")


if __name__ == "__main__":
    main()
