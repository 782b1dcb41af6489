"""Which parts of a filter pay: one factor at a time, each judged on the sets it was not chosen by.

    python benchmarks/filter_ablation.py --output results/filter_ablation --sets kolektor,bottle,mtd --seeds 3 -s variation.preset=none -s schedule.max_steps=90 -s schedule.max_epochs=3 -s expert.schedule.epoch_steps=30

The variants are those of `VARIANTS`; `collapse` and `masked block` are explained in `filter_variants.py`, and take
another weight as `--variants collapse=0.5`. Each row is one set, seed, input and variant: image AUROC, pixel AUROC and
AUPRO of the test images at the epoch that is kept (`kept`) and at the last one (`last`: where no epoch beats the
untrained filter, only this shows what a factor does), vicinal AUROC of validation before training, at the kept and at
the last epoch, and minutes of training with its validations. No fall ends training, so that the last epoch is the
same of all. Rows that are there are not measured again.

Two kinds of tables follow. Differences to `default`, means over seeds. And for each number, with each set left out in
turn: whether the factor gains on the mean of the other sets (`yes`), and what it then gains on the set left out (`-`:
not measured here or on no other set); the last column is the mean over sets, had it been kept only where the others
say yes. Test images choose nothing that they measure.
"""  # noqa: E501

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
from filter_runs import FILTER, INPUTS, METRICS, Row, Training, inputs_of, train, worth
from filter_variants import BETA, SHARE, collapse, masked_block
from measuring import add_rows, read_table
from sets import DEMOS, FOLDERS, grid_options, label_of, recipe_for, roots_of
from torch import nn

from anomaly_ft.errors import DivergedError, GaussianError
from anomaly_ft.finetune.methods.filter import FilterMethod
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import filter_method

TO_THE_END = ("expert.schedule.patience=1000", "expert.schedule.margin=1000")  # all variants learn equally long
KEYS = ["set", "seed", "input", "variant", "settings"]
DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """One factor changed: settings, or what puts something around a fitted filter, with a weight, and gives the
    loss."""

    settings: tuple[str, ...] = ()
    around: Callable[[FilterMethod, float], nn.Module] | None = None
    weight: float = 0.0


VARIANTS = {
    DEFAULT: Variant(),
    "plain convolutions": Variant(("expert.filter.reach=1",)),
    "no skips": Variant(("expert.filter.skips=false",)),
    "no preserved noise": Variant(("expert.filter.noise=0",)),
    "clean weight .9": Variant(("expert.filter.clean_weight=0.9",)),
    "all corrupted": Variant(("expert.filter.clean_share=0",)),
    "collapse": Variant((), collapse, BETA),
    "masked block": Variant((), masked_block, SHARE),
}
NUMBERS = [
    *(f"{when}.{metric}" for when in ("kept", "last") for metric in METRICS),
    "kept.vicinal",
    "last.vicinal",
]


def variants_of(names: str) -> dict[str, Variant]:
    """The variants by name, of a list with commas; `NAME=WEIGHT` is one of another weight.

    Raises:
        click.BadParameter: none of the variants, or a weight that is none or is for none.
    """
    found = {}
    for name in names.split(","):
        known, _, weight = name.partition("=")
        if known not in VARIANTS:
            raise click.BadParameter(f"no variant {known!r}; expected some of {', '.join(VARIANTS)}")
        found[name] = VARIANTS[known]
        if weight and not found[name].around:
            raise click.BadParameter(f"{name!r}: only collapse and masked block have a weight")
        if weight:
            try:
                found[name] = replace(found[name], weight=float(weight))
            except ValueError:
                raise click.BadParameter(f"{name!r}: the weight is no number") from None
    return found


def measure(root: str, settings: list[str], variant: Variant, terminal: Terminal) -> Row:
    """The numbers of one row."""
    setup = prepare(recipe_for(root, [*settings, *variant.settings]), terminal)
    method = filter_method(setup)
    induced = method.fit()  # makes the pseudo-anomalies that are watched: of all variants the same
    objective = variant.around(method, variant.weight) if variant.around else None
    training = train(setup, method, induced, objective)
    kept = numbers(setup, method, "kept")
    method.made.net.load_state_dict(training.last)
    return kept | numbers(setup, method, "last") | watched(training) | {"minutes": training.minutes}


def numbers(setup: Setup, method: FilterMethod, name: str) -> Row:
    """What the filter as it is now is worth; nothing where its training diverged."""
    try:
        return worth(setup, method.refit(method.keeps, watching=False).detector, name)[0]
    except (DivergedError, GaussianError) as mistake:
        setup.terminal.say(f"{name} epoch: {mistake}; its numbers stay empty")
        return {f"{name}.{metric}": None for metric in METRICS}


def watched(training: Training) -> Row:
    """Vicinal AUROC before training, at the kept and at the last epoch, and which epochs those are."""
    seen = [record.validation.auroc if record.validation else None for record in training.records]
    epochs = {"kept": training.kept, "epochs": len(seen) - 1}
    return {"first.vicinal": seen[0], "kept.vicinal": seen[training.kept], "last.vicinal": seen[-1], **epochs}


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences to `default` of the same set, seed and input, means over seeds; `seeds` counts them."""
    same = ["input", "set", "seed"]
    rows = rows.astype(dict.fromkeys(NUMBERS, float))  # without masks there are no pixel numbers
    default = rows[rows["variant"] == DEFAULT].set_index(same)[NUMBERS]
    others = rows[rows["variant"] != DEFAULT].set_index(["variant", *same])[NUMBERS]
    paired = others[others.index.droplevel("variant").isin(default.index)]
    gains = paired - default.loc[paired.index.droplevel("variant")].to_numpy()
    groups = gains.groupby(["input", "variant", "set"], sort=False)
    table = groups.mean().assign(seeds=groups.size())
    return table.sort_index(level=["input", "variant"], sort_remaining=False)


def left_out(gains: pd.DataFrame, number: str) -> pd.DataFrame:
    """Whether each factor gains `number` on the mean of the other sets, and what it gains on the set left out;
    nothing where one set was measured alone."""
    table = gains[number].unstack("set", sort=False).dropna(axis=1, how="all")
    if len(table.columns) < 2:
        return pd.DataFrame()
    others = pd.DataFrame({name: table.drop(columns=name).mean(axis=1) for name in table})
    known = table.notna() & others.notna()  # on this set, and on another one
    told = {
        name: [
            f"{'yes' if says > 0 else 'no'} {gain:+.4f}" if both else "-"
            for says, gain, both in zip(others[name], table[name], known[name], strict=True)
        ]
        for name in table
    }
    mean = table.where(others > 0, 0.0).where(known).mean(axis=1)
    chosen = mean.map("{:+.4f}".format).where(mean.notna(), "-")
    return pd.DataFrame(told, index=table.index).assign(**{"so chosen": chosen})


def tell(rows: pd.DataFrame) -> None:
    """Print the rows and what follows from them."""
    print(rows.drop(columns="settings").to_string(index=False, float_format="{:.4f}".format))
    gains = differences(rows)
    if not len(gains):
        return
    print(f"\ndifferences to {DEFAULT}, means over seeds\n{gains.to_string(float_format='{:+.4f}'.format)}")
    for number in NUMBERS[:-2]:
        table = left_out(gains, number)
        if len(table):
            print(f"\n{number}: whether the other sets say yes, and the gain on the set left out")
            print(table.to_string())


@click.command()
@grid_options(sets=",".join([*FOLDERS, *DEMOS]), seeds=3, seeds_of="for each set")
@click.option("--inputs", default=",".join(INPUTS), show_default=True, help=f"Of {', '.join(INPUTS)}.")
@click.option(
    "--variants", default=",".join(VARIANTS), show_default=True, help="One of them may be NAME=WEIGHT."
)
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: Any) -> None:
    """Run the grid and print the tables."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    variants = variants_of(asked["variants"])
    inputs = inputs_of(asked["inputs"])
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "filter_ablation.csv", label_of(settings)
    table = read_table(path, KEYS)
    roots = roots_of(sets, data, terminal.say)
    for seed in range(seeds):
        for name, root in roots.items():
            for given in inputs:
                changed = [f"seed={seed}", *settings, *FILTER, *TO_THE_END, *INPUTS[given]]
                for factor, variant in variants.items():
                    keys = (name, seed, given, factor, label)
                    if keys in set(table[KEYS].itertuples(index=False, name=None)):
                        continue
                    terminal.say(f"{name}, seed {seed}, {given}: {factor}")
                    row = dict(zip(KEYS, keys, strict=True)) | measure(root, changed, variant, terminal)
                    table = add_rows(path, table, pd.DataFrame([row]), KEYS)
    tell(table[table["settings"] == label])


if __name__ == "__main__":
    main()
