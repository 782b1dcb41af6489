"""What a filter is worth, of features and of pixels, beside the Gaussian detector and beside both added up.

    python benchmarks/filter.py --output results/filter --sets bottle,kolektor,mtd --seeds 1 -s variation.preset=none -s schedule.max_steps=90 -s schedule.max_epochs=3 -s expert.schedule.epoch_steps=30

Each row is one set, seed and input: image AUROC of the filter (`filter`), of the Gaussian detector of the same
split, frozen (`gaussian`) and fine-tuned for as many steps (`tuned`), of the filter's sum with either, each in
standard deviations of held-out normal images (`sum`, `tuned_sum`), and of the filter before training (`untrained`;
empty for pixels, which know nothing then); pixel AUROC and AUPRO of the maps; minutes of training with its
validations and milliseconds an image of filter and of Gaussian, and the epoch that was kept. Nothing is chosen by
a test image.
"""  # noqa: E501

import logging
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from filter_runs import FILTER, INPUTS, Floats, Row, Training, inputs_of, labels, train, worth
from measuring import add_rows, read_table
from sets import DEMOS, FOLDERS, grid_options, label_of, recipe_for, roots_of
from torch import Tensor

from anomaly_ft.finetune.method import Method
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.filter.net import make_net
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import make_method

KEYS = ["set", "seed", "input", "settings"]
TIMED = 32  # test images whose pass is timed


def gaussians(root: str, settings: list[str], terminal: Terminal) -> tuple[Row, dict[str, Floats]]:
    """Numbers of the frozen and the fine-tuned Gaussian detector, and their scores by the name of the sum."""
    kept = [s for s in settings if not s.startswith(("expert.filter", "filter"))]
    setup = prepare(recipe_for(root, kept), terminal)
    method = make_method(setup)
    induced = method.fit()
    frozen, of_frozen = worth(setup, induced, "gaussian")
    training, detector = fine_tune(setup, method, induced)
    tuned, of_tuned = worth(setup, detector, "tuned")
    cost = {"tuned.minutes": training.minutes, "tuned.ms_image": ms_image(setup, detector)}
    return frozen | tuned | cost | {"tuned.kept": training.kept}, {"sum": of_frozen, "tuned_sum": of_tuned}


def filtered(root: str, settings: list[str], terminal: Terminal) -> tuple[Row, Floats, Setup]:
    """Numbers and scores of a filter after training, and of the same before."""
    setup = prepare(recipe_for(root, settings), terminal)
    method = make_method(setup)
    induced = method.fit()
    before = worth(setup, induced, "untrained")[0] if method.has_baseline else {}
    training, detector = fine_tune(setup, method, induced)
    numbers, scores = worth(setup, detector, "filter")
    cost = {"minutes": training.minutes, "ms_image": ms_image(setup, detector)}
    return numbers | before | cost | {"kept": training.kept}, scores, setup


def fine_tune(setup: Setup, method: Method, induced: Detector) -> tuple[Training, Detector]:
    """Train with early stopping; what it was like, and the detector of the epoch that is kept."""
    training = train(setup, method, induced)
    return training, method.refit(method.keeps, watching=False).detector


def ms_image(setup: Setup, detector: Detector) -> float:
    """Time some test images, in milliseconds an image."""
    some = setup.data.test.pixels[:TIMED]
    started = time.perf_counter()
    score_images(detector, some, setup.compute)
    return 1000 * (time.perf_counter() - started) / len(some)


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
    table = read_table(path, KEYS)
    for seed in range(seeds):
        for name, root in roots_of(sets, data, terminal.say).items():
            beside: tuple[Row, dict[str, Floats]] | None = None
            for given in inputs:
                if ((table[KEYS] == [name, seed, given, label]).all(axis=1)).any():
                    continue
                changed = [f"seed={seed}", *settings]
                beside = beside or gaussians(root, changed, terminal)
                row, scores, setup = filtered(root, [*changed, *FILTER, *INPUTS[given]], terminal)
                both = {f"{s}.auroc": image_auroc(labels(setup), scores + g) for s, g in beside[1].items()}
                new = {"set": name, "seed": seed, "input": given, "settings": label} | row | beside[0] | both
                table = add_rows(path, table, pd.DataFrame([new]), KEYS)
    rows = table[table["settings"] == label].drop(columns="settings")
    print(rows.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
