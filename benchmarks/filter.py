"""What a filter is worth, of features and of pixels, beside the frozen Gaussian detector and beside both added up.

    python benchmarks/filter.py --output results/filter --sets bottle,kolektor,mtd --seeds 1 -s variation.preset=none -s schedule.max_steps=90 -s schedule.max_epochs=3 -s expert.schedule.epoch_steps=30

Each row is one set, seed and input: image AUROC of the filter (`filter`), of the frozen Gaussian detector of the
same split (`gaussian`), of the sum of both, each in standard deviations of held-out normal images (`sum`), and of
the filter before training (`untrained`; empty for pixels, which know nothing then); pixel AUROC and AUPRO of the
maps; minutes of training with its validations, milliseconds an image, and the epoch that was kept. Nothing is
chosen by a test image.
"""  # noqa: E501

import logging
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from filter_runs import FILTER, INPUTS, Floats, Row, inputs_of, labels, train, worth
from sets import DEMOS, FOLDERS, grid_options, label_of, recipe_for, roots_of
from torch import Tensor

from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.filter.net import make_net
from anomaly_ft.model.inference import score_images
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import make_method

KEYS = ["set", "seed", "input", "settings"]
TIMED = 32  # test images whose pass is timed


def gaussian(root: str, settings: list[str], terminal: Terminal) -> tuple[Row, Floats]:
    """Numbers and scores of the frozen Gaussian detector."""
    kept = [s for s in settings if not s.startswith(("expert.filter", "filter"))]
    setup = prepare(recipe_for(root, kept), terminal)
    return worth(setup, make_method(setup).fit(), "gaussian")


def trained(root: str, settings: list[str], terminal: Terminal) -> tuple[Row, Floats, Setup]:
    """Numbers and scores of a filter after training, and of the same before."""
    setup = prepare(recipe_for(root, settings), terminal)
    method = make_method(setup)
    induced = method.fit()
    before = worth(setup, induced, "untrained")[0] if method.has_baseline else {}
    training = train(setup, method, induced)
    detector = method.refit(method.keeps, watching=False).detector
    numbers, scores = worth(setup, detector, "filter")
    some = setup.data.test.pixels[:TIMED]
    started = time.perf_counter()
    score_images(detector, some, setup.compute)
    speed = {"minutes": training.minutes, "ms_image": 1000 * (time.perf_counter() - started) / len(some)}
    return numbers | before | speed | {"kept": training.kept}, scores, setup


def kept_bytes(images: int, channels: int, side: int) -> int:
    """Bytes that one step of the net keeps for its backward pass, in bfloat16."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    net = make_net(channels, side, width=128, reach=0, skips=True, seed=0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(images, channels, side, side))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def memory() -> pd.DataFrame:
    """MiB of activations that each image of a training step takes, of features and of pixels."""
    rows = [
        {"input": name, "image_size": size, "mib_image": (kept_bytes(2, *net) - kept_bytes(1, *net)) / 2**20}
        for name, size, net in (
            ("features", 224, (128, 28)),
            ("features", 448, (128, 56)),
            ("pixels", 128, (3, 128)),
            ("pixels", 448, (3, 448)),
        )
    ]
    return pd.DataFrame(rows)


@click.command()
@grid_options(sets=",".join([*FOLDERS, *DEMOS]), seeds=3, seeds_of="for each set")
@click.option("--inputs", default=",".join(INPUTS), show_default=True, help=f"Of {', '.join(INPUTS)}.")
@click.option("--memory", "only_memory", is_flag=True, help="Tell the memory of a training step alone.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: Any) -> None:
    """Run the grid and print the table."""
    if asked["only_memory"]:
        print(memory().to_string(index=False, float_format="{:.1f}".format))
        return
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    inputs = inputs_of(asked["inputs"])
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "filter.csv", label_of(settings)
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS)
    for seed in range(seeds):
        for name, root in roots_of(sets, data, terminal.say).items():
            beside: tuple[Row, Floats] | None = None
            for given in inputs:
                if ((table[KEYS] == [name, seed, given, label]).all(axis=1)).any():
                    continue
                changed = [f"seed={seed}", *settings]
                beside = beside or gaussian(root, changed, terminal)
                row, scores, setup = trained(root, [*changed, *FILTER, *INPUTS[given]], terminal)
                both = {"sum.auroc": image_auroc(labels(setup), scores + beside[1])}
                new = {"set": name, "seed": seed, "input": given, "settings": label} | row | beside[0] | both
                table = pd.concat([table, pd.DataFrame([new])]) if len(table) else pd.DataFrame([new])
                table.to_csv(path, index=False)
    rows = table[table["settings"] == label].drop(columns="settings")
    print(rows.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
