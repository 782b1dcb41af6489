"""Which encoder, and which way to fine-tune it?

    python benchmarks/encoders.py --output results -s data.image_size=112 -s expert.runtime.threads=1

For each set, seed and encoder (EfficientNet-Lite0, MobileNetV2 and a ViT-S/14, all from packages): frozen, and
fine-tuned as a whole (`full`), by adapters (`lora`), in late blocks alone (`blocks`), and, of the small ones,
as a whole while the ViT-S teaches (`taught`). Each is a run with its own early stopping; the rate is the
recipe's, for transformers a tenth of it and for adapters the recipe's again.

A row has image AUROC of the score that decides, of the test images as they are and varied as the recipe calls
benign, of pooled and dense score as they are, AUPRO of the dense map, the vicinal AUROC before training and of
the kept epoch, minutes and processor seconds of all training with its validations, milliseconds an image, and
MB that have to be kept of the encoder: nothing frozen, an adapter's factors, or all its weights.

With `--anomalib`, the python of an environment that has anomalib 2.7 (see `beside_anomalib.py`), its
AnomalyDINO on the same ViT-S, images and size stands among the ViT-S's ways: last block, all patches of the
training images in its memory, one neighbour, as it is by default.

Writes `encoders.csv` as it goes; what is there is not run again. Prints a table of all sets, and means over
sets and seeds of the gain over the same encoder frozen. Sets and where they lie: see `sets.py`. No test image
chooses anything.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
from beside_anomalib import ABSENT, installed
from evidence_peers import DINO, run_peer
from evidence_run import BOTH, Cost, test
from evidence_tables import TITLES, markdown, marked
from measuring import add_rows, cost_of, read_table
from sets import DEMOS, FOLDERS, grid_options, label_of, recipe_for, roots_of
from torch import nn

from anomaly_ft.model.interface import Detector
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import gaussian_method
from anomaly_ft.run.training import epochs, loop_state, make_monitor

VIT = "vit_small_patch14_dinov2"
TRANSFORMER = ("optimizer.lr=1e-5", "expert.optimizer.name=adamw")  # as recipes/vit.yaml has it
ADAPTER = ("optimizer.lr=3e-4", "encoder.adapt=lora")
TEACHER = (f"objective.teacher={VIT}", "expert.objective.teacher_weights=package")
LATE = "encoder.train_blocks=[blocks.5,blocks.6,conv_head,bn2]"
ENCODERS: dict[str, tuple[str, ...]] = {
    "Lite0": ("encoder.name=tf_efficientnet_lite0", "encoder.weights=package"),
    "MobileNetV2": ("encoder.name=mobilenetv2_100", "encoder.weights=package"),
    "ViT-S": (f"encoder.name={VIT}", "encoder.weights=package", *TRANSFORMER),
}
FROZEN = "frozen"
SMALL = {"full": (), "lora": ADAPTER, "blocks": (LATE,), "taught": TEACHER}
LARGE = {"full": (), "lora": ADAPTER, "blocks": ("encoder.train_blocks=[blocks.7,blocks.8,blocks.9]",)}
LIMIT = 3600.0  # seconds for anomalib on one set
WAYS: dict[str, dict[str, tuple[str, ...]]] = {"Lite0": SMALL, "MobileNetV2": SMALL, "ViT-S": LARGE}
RUN = ["set", "seed", "settings", "encoder", "way"]
MEASURED = ("auroc", "varied", "aupro")
EQUAL = 1e-9  # AUROC that differ by less are the same
Row = dict[str, Any]


def measure(setup: Setup, detector: Detector) -> Row:
    """Test a detector: image AUROC clean and varied, AUPRO, milliseconds an image."""
    (clean, varied), numbers = test(setup, detector, BOTH)
    return {
        "auroc": clean[f"auroc.{detector.decides}"],
        "varied": varied[f"auroc.{detector.decides}"],
        **{name: clean[f"auroc.{name}"] for name in ("pooled", "dense")},
        "aupro": numbers["pixel_aupro"],
        "ms_image": cost_of(setup, detector)["ms_image"],
    }


def kept_mb(encoder: nn.Module) -> float:
    """Count the MB of an adapter's factors, or of all weights where there is none."""
    weights = encoder.state_dict()
    learnt = {name: value for name, value in weights.items() if ".lora_" in name} or weights
    return sum(value.nbytes for value in learnt.values()) / 1e6


def run(recipe: Recipe, ways: tuple[str, ...], terminal: Terminal) -> list[Row]:
    """Train once; a row of the frozen encoder where it is among the `ways`, and one of what became of it."""
    setup, spent = prepare(recipe, terminal), Cost()
    with spent.counting():
        method = gaussian_method(setup)
        frozen = method.fit()
    row = {"way": FROZEN, "kept_mb": 0.0} | spent.plain()
    rows = [row | measure(setup, frozen)] if FROZEN in ways else []
    with spent.counting():
        monitor = make_monitor(replace(setup, position=method.position), method, method.pretrained)
        state = loop_state(setup, method)
        verdict = list(epochs(setup, state, monitor))[-1].verdict
        tuned = method.refit("refit", watching=False).detector
    seen = [validation.auroc for validation in state.history]
    kept = {"step": verdict.best_epoch * state.epoch_steps, "vicinal": seen[verdict.best_epoch]}
    row = {"way": ways[-1], "kept_mb": kept_mb(setup.encoder)} | spent.plain() | kept
    return [*({**each, "step": 0, "vicinal": seen[0]} for each in rows), row | measure(setup, tuned)]


def beside(recipe: Recipe, python: str) -> list[Row]:
    """A row of anomalib's AnomalyDINO."""
    found = run_peer(recipe, DINO, python, LIMIT)
    if found["outcome"] != "ended":
        raise click.ClickException(f"{DINO}: {found['outcome']}")
    same = {"auroc": "auroc.fused", "varied": "varied.auroc.fused", "aupro": "pixel_aupro"}
    same |= {name: name for name in ("minutes", "cpu_seconds", "ms_image")}
    return [{"way": DINO} | {name: found[theirs] for name, theirs in same.items()}]


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """For each encoder and way the mean gains over the same encoder frozen, the worst of them, how many runs
    gained and lost, and what they cost."""
    keys, ways = ["set", "seed"], ["encoder", "way"]
    frozen = table[table["way"] == FROZEN][[*keys, "encoder", *MEASURED]]
    beside = table.merge(frozen, on=[*keys, "encoder"], suffixes=("", "_frozen"))
    for name in MEASURED:
        beside[f"{name} gain"] = beside[name] - beside[f"{name}_frozen"]
    beside["gained"], beside["lost"] = beside["auroc gain"] > EQUAL, beside["auroc gain"] < -EQUAL
    groups = beside.groupby(ways, sort=False)
    summary = groups[[*(f"{name} gain" for name in MEASURED), "cpu_seconds", "ms_image", "kept_mb"]].mean()
    summary.insert(1, "worst", groups["auroc gain"].min())
    return summary.assign(runs=groups.size(), gained=groups["gained"].sum(), lost=groups["lost"].sum())


def by_set(table: pd.DataFrame) -> str:
    """Lay out image AUROC of each encoder and way, clean / varied, means over seeds, a column for each set;
    bold where the same encoder frozen is better."""
    means = table.groupby(["encoder", "way", "set"], sort=False)[["auroc", "varied"]].mean()
    names = [name for name in TITLES if name in set(table["set"])]

    def cell(encoder: str, way: str, name: str) -> str:
        if (encoder, way, name) not in means.index:
            return "-"
        here, frozen = means.loc[(encoder, way, name)], means.loc[(encoder, FROZEN, name)]
        return " / ".join(marked(f"{here[n]:.3f}", lost=here[n] < frozen[n]) for n in means)

    rows = means.index.droplevel("set").unique()
    lines = [[f"{encoder}, {way}", *(cell(encoder, way, name) for name in names)] for encoder, way in rows]
    return markdown(["encoder, way", *(TITLES[name] for name in names)], lines)


def grid_of(encoders: str, ways: str) -> list[tuple[str, str]]:
    """Pair encoders with the ways that they have, of two lists with commas.

    Raises:
        click.BadParameter: there is no such encoder or way.
    """
    for asked, known in ((encoders, ENCODERS), (ways, SMALL)):
        if unknown := sorted(set(asked.split(",")) - set(known)):
            raise click.BadParameter(f"there is no {', '.join(unknown)}; expected some of {', '.join(known)}")
    return [
        (encoder, way) for encoder in encoders.split(",") for way in ways.split(",") if way in WAYS[encoder]
    ]


@click.command()
@grid_options(sets=",".join([*FOLDERS, *DEMOS]), seeds=3, seeds_of="for each set")
@click.option("--encoders", default=",".join(ENCODERS), show_default=True, help=f"Of {', '.join(ENCODERS)}.")
@click.option("--ways", default=",".join(SMALL), show_default=True, help=f"Of {', '.join(SMALL)}.")
@click.option("--anomalib", default="", help="python of the environment that has anomalib")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: str) -> None:
    """Run what is missing, and print the means."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "encoders.csv", label_of(settings)
    table = read_table(path, RUN)
    roots = roots_of(sets, data, terminal.say)
    chosen = grid_of(asked["encoders"], asked["ways"])
    if not installed(asked["anomalib"]):
        terminal.say(ABSENT)
    elif any(encoder == "ViT-S" for encoder, _ in chosen):
        chosen.append(("ViT-S", DINO))
    for seed in range(seeds):
        for name, root in roots.items():
            for encoder, way in chosen:
                done = set(table[(table[RUN[:4]] == [name, seed, label, encoder]).all(axis=1)]["way"])
                if way in done:
                    continue
                terminal.say(f"{name}, seed {seed}: {encoder}, {way}")
                changes = [*ENCODERS[encoder], *WAYS[encoder].get(way, ()), f"seed={seed}", *settings]
                recipe, ways = recipe_for(root, changes), (way,) if FROZEN in done else (FROZEN, way)
                peer = way == DINO
                rows = pd.DataFrame(beside(recipe, asked["anomalib"]) if peer else run(recipe, ways, terminal))
                known = {"set": name, "seed": seed, "settings": label, "encoder": encoder}
                table = add_rows(path, table, rows.assign(**known), RUN)
    table = table[table["settings"] == label]
    print(by_set(table), summary_of(table).to_string(float_format="{:.4f}".format), sep="\n\n")


if __name__ == "__main__":
    main()
