"""Does a position mean anything here, and does vicinal validation know?

    python benchmarks/position.py --output results
    python benchmarks/position.py --output results --frozen --seeds 1 -s variation.preset=none

For each set and seed, with the frozen encoder and fine-tuned: image AUROC of all scores, pixel AUROC and AUPRO
of the dense map, and vicinal AUROC of the dense score, with a Gaussian at each position (`fixed`) and with one
of all positions (`free`); milliseconds an image and MiB of either. Both heads see the same images and the same
pseudo-anomalies. `chosen` is what `gaussian.position: auto` comes to, `hindsight` what the test images would
have chosen, which nobody may ask.

With `--scattered` every image, of the training and the test split, is rolled by an offset of its own, drawn by
its name: what leaves at one side comes back at the other. So real parts lie anyhow, and positions mean nothing.
Masks are not rolled: there are no pixel metrics.

Writes `position.csv`, a row for each head, and the scores of each set and seed; what the table has is not run
again. Sets and where they lie: see `sets.py`. Prints the rows, what the choices cost against hindsight, and
what the fused score would reach if vicinal validation chose for each set what the dense score counts in it.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from choices import scores_name
from measuring import add_rows, cost_of, read_table
from numpy.typing import NDArray
from sets import DEMOS, FOLDERS, grid, grid_options, label_of

from anomaly_ft.data.loaded import Images
from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.finetune.brakes.weight_average import put_weights, trained_weights
from anomaly_ft.finetune.records import PositionChoice, PseudoSet
from anomaly_ft.finetune.validation import summed_up
from anomaly_ft.metrics import image_auroc, placements
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_heads
from anomaly_ft.model.gaussian.settings import POSITIONS, Position
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.finish import decoder_of
from anomaly_ft.run.planting import with_data
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import METHODS
from anomaly_ft.run.training import epochs, loop_state, make_monitor, position_of

RUN = ["set", "seed", "settings", "encoder"]
SCORES = ("pooled", "dense", "fused")
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 1e6)  # of the dense score, the pooled one counts 1
Row = dict[str, Any]
Raw = dict[str, NDArray[Any]]


def measure(
    setup: Setup, detector: GaussianDetector, sets: Mapping[str, PseudoSet], *, head: str, raw: Raw
) -> Row:
    """What a detector is worth on test images and on pseudo-anomalies, its time and its memory. Its scores go
    into `raw` under the name of the head."""
    records, pixels = setup.data.test.records, setup.data.test.pixels
    anomalous = np.array([record.anomalous for record in records])
    tested = predict(detector, pixels, setup.compute)
    normal = score_images(detector, setup.varied("val").pixels, setup.compute)
    scored = {name: score_images(detector, of.pixels, setup.compute) for name, of in sets.items()}
    for part, scores in ({"normal": normal, "test": tested.scores} | scored).items():
        raw |= {f"{head}, {part}, {name}": scores[name] for name in SCORES[:2]}
    numbers = localise(records, {"dense": tested.maps["dense"]}, decoder_of(setup)).numbers
    return {
        **{f"test.{name}": image_auroc(anomalous, tested.scores[name]) for name in SCORES},
        "vicinal": summed_up(normal["dense"], {name: of["dense"] for name, of in scored.items()}, sets).auroc,
        **{name: numbers[name] for name in ("pixel_auroc", "pixel_aupro")},
        **cost_of(setup, detector),
    }


def scatter(setup: Setup) -> Setup:
    """The run on the same images, each rolled by an offset of its own."""
    data = setup.data
    return with_data(setup, replace(data, undivided=rolled(data.undivided), test=rolled(data.test)))


def rolled(images: Images) -> Images:
    """Images `(n, h, w, 3)` rolled down and to the right by as many pixels as their names say."""
    pixels = np.empty(images.pixels.shape, np.uint8)
    for i, record in enumerate(images.records):
        rng = np.random.default_rng(list(record.name.encode()))
        pixels[i] = np.roll(images.pixels[i], tuple(rng.integers(0, pixels.shape[1], 2)), axis=(0, 1))
    records = tuple(replace(record, mask_name="") for record in images.records)
    return replace(images, pixels=pixels, records=records)


def frozen(setup: Setup, raw: Raw) -> tuple[list[Row], PositionChoice, dict[str, PseudoSet]]:
    """Rows of both heads of the pretrained encoder, what `auto` chooses, and its pseudo-anomalies."""
    method = METHODS["gaussian"](setup)
    images, settings = (setup.varied("train").pixels, setup.varied("val").pixels), setup.detector_settings()
    heads = fit_heads(setup.encoder, *images, setup.compute, settings)
    choice = position_of(setup, heads, method.score)
    made = next(iter(setup.pseudo.values()))
    sets = {name: pseudo for name, pseudo in made.items() if pseudo.informative}
    rows = [
        {"encoder": "frozen", "position": name}
        | measure(setup, detector, sets, head=f"frozen, {name}", raw=raw)
        for name, detector in heads.detectors.items()
    ]
    return rows, choice, sets


def fine_tuned(setup: Setup, position: Position, sets: Mapping[str, PseudoSet], raw: Raw) -> Row:
    """The row of one head after fine-tuning with it; the encoder is afterwards what it was before."""
    section = setup.recipe.gaussian.model_copy(update={"position": position})
    setup = replace(setup, recipe=setup.recipe.model_copy(update={"gaussian": section}), position=None)
    method, pretrained = METHODS["gaussian"](setup), trained_weights(setup.encoder)
    monitor = make_monitor(setup, method, method.fit())
    records = list(epochs(setup, loop_state(setup, method), monitor))
    detector = method.refit(setup.recipe.gaussian.statistics, watching=False).detector
    row = {"encoder": "fine-tuned", "position": position, "kept_epoch": records[-1].verdict.best_epoch}
    row |= measure(setup, detector, sets, head=f"fine-tuned, {position}", raw=raw)
    put_weights(setup.encoder, pretrained)
    return row


def run(setup: Setup, scores_to: Path, *, train: bool) -> list[Row]:
    """All rows of one set and seed, with what was chosen and what hindsight would have."""
    started = time.perf_counter()
    raw: Raw = {"labels": np.array([record.anomalous for record in setup.data.test.records])}
    rows, choice, sets = frozen(setup, raw)
    if train:
        rows += [fine_tuned(setup, position, sets, raw) for position in POSITIONS]
    np.savez(scores_to, **raw)
    table = pd.DataFrame(rows)
    best = table.loc[table.groupby("encoder")["test.dense"].idxmax()].set_index("encoder")["position"]
    return [
        row
        | {"chosen": choice.position, "hindsight": best[row["encoder"]]}
        | {"standard_error": choice.standard_error, "seconds": time.perf_counter() - started}
        for row in rows
    ]


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the AUROC that `auto` reaches, beside either head and the better of them."""
    lines = []
    for (name, encoder, score), group in (
        ((*keys, score), group) for keys, group in rows.groupby(["set", "encoder"]) for score in SCORES[1:]
    ):
        seeds = group.pivot(index="seed", columns="position", values=f"test.{score}")
        chosen = group.groupby("seed")["chosen"].first()
        auto = pd.Series([seeds.loc[seed, chosen[seed]] for seed in seeds.index])
        lines.append(
            {"set": name, "encoder": encoder, "score": score, "seeds": len(seeds)}
            | {position: seeds[position].mean() for position in POSITIONS}
            | {"auto": auto.mean(), "hindsight": seeds.max(axis=1).mean()}
            | {"most_lost": float((seeds.max(axis=1).to_numpy() - auto.to_numpy()).max())}
            | {"free_chosen": int((chosen == "free").sum())}
        )
    return pd.DataFrame(lines)


def weights(rows: pd.DataFrame, output: Path, label: str) -> pd.DataFrame:
    """Mean over seeds of the fused score's test AUROC: with each weight of the dense score, with the one of
    highest vicinal AUROC, and with the best in hindsight."""
    lines = []
    heads = rows[["set", "seed", "encoder", "position"]].drop_duplicates()
    for name, seed, encoder, position in heads.itertuples(index=False, name=None):
        path = output / scores_name(name, seed, label)
        if not path.exists():
            continue
        with np.load(path) as stored:
            raw = dict(stored)
        vicinal, test = pd.Series(dtype=float), pd.Series(dtype=float)
        for weight in WEIGHTS:
            fused = _fused(raw, f"{encoder}, {position}", weight)
            test[f"{weight:g}"] = image_auroc(raw["labels"], fused.pop("test"))
            normal = fused.pop("normal")
            vicinal[f"{weight:g}"] = np.mean([placements(normal, wrong)[1].mean() for wrong in fused.values()])
        chosen = {"chosen": test[vicinal.idxmax()], "hindsight": test.max()}
        lines.append({"set": name, "encoder": encoder, "position": position} | dict(test) | chosen)
    return pd.DataFrame(lines).groupby(["set", "encoder", "position"], sort=False).mean() if lines else rows[:0]


def _fused(raw: Raw, head: str, weight: float) -> Raw:
    """The fused score of each part, with a weight of the dense one."""
    parts = {key.split(", ")[2] for key in raw if key.startswith(f"{head}, ")}
    total: Raw = dict.fromkeys(parts, np.zeros(1))
    for name, share in (("pooled", 1 / (1 + weight)), ("dense", weight / (1 + weight))):
        normal = raw[f"{head}, normal, {name}"]
        for part in parts:
            standard = (raw[f"{head}, {part}, {name}"] - normal.mean()) / normal.std(ddof=1)
            total[part] = total[part] + share * standard
    return total


@click.command()
@grid_options(sets=",".join([*FOLDERS, *DEMOS]), seeds=3, seeds_of="for each set")
@click.option("--frozen", "only", is_flag=True, help="Do not fine-tune.")
@click.option("--scattered", is_flag=True, help="Roll every image by an offset of its own.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: bool) -> None:
    """Run the grid and print the tables."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path = Terminal(), output / "position.csv"
    table = read_table(path, RUN)
    done = set(table[RUN].itertuples(index=False, name=None))
    label = label_of(settings)
    label += " scattered" if asked["scattered"] else ""
    last = "frozen" if asked["only"] else "fine-tuned"
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        if (name, seed, label, last) in done:
            continue
        setup = prepare(recipe, terminal)
        setup = scatter(setup) if asked["scattered"] else setup
        scores_to = output / scores_name(name, seed, label)
        new = pd.DataFrame(run(setup, scores_to, train=not asked["only"]))
        new = new.assign(set=name, seed=seed, settings=label)
        table = add_rows(path, table, new, RUN[:3])
        terminal.say(new.drop(columns=["set", "settings"]).to_string(index=False, float_format="{:.4f}".format))
    rows = table[table["settings"] == label]
    print(rows.drop(columns="settings").to_string(index=False, float_format="{:.4f}".format))
    print("\nwhat the choice costs against hindsight, image AUROC on test images, means over seeds")
    print(cost(rows).to_string(index=False, float_format="{:.4f}".format))
    print("\ntest AUROC of the fused score by what the dense one counts in it")
    print(weights(rows, output, label).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
