"""Which way to watch would have kept the right epoch? Judged on scores forgetting.py left, without training.

    python benchmarks/forgetting.py --output results -s schedule.max_steps=300 -s schedule.max_epochs=10 \\
        -s expert.schedule.epoch_steps=30 -s expert.validation.tolerance=0.49 \\
        -s "validation.augmentations=[cutmix,cutout,cutpaste,scar,line,stain,blend,warp]"
    python benchmarks/witnesses.py results

Prints for each rule and run the validation it keeps, what the best one would have been worth more on test
images (regret), and what the kept one is worth more than the pretrained encoder (gain); then a line for each
rule, with the rank correlation of what it watches with the truth. Test images judge the rules alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from choices import RUN, scores_name
from numpy.typing import NDArray
from scipy.stats import spearmanr

from anomaly_ft.finetune.early_stopping import StoppingRule, early_stop, paired_standard_error
from anomaly_ft.finetune.records import PseudoSet, Validation
from anomaly_ft.finetune.validation import validate
from anomaly_ft.metrics import Floats

TARGET, TOLERANCE = 0.8, 0.12  # as recipes have them: further from it an augmentation is not informative
LARGE, FAINT = ("cutmix", "cutpaste", "scar", "cutout"), ("line", "stain", "blend", "warp")
LONG = StoppingRule(max_epochs=10_000, patience=3)
Watch = Callable[["Trajectory"], tuple[Floats, int]]  # what is watched at each validation, and the one kept


@dataclass(frozen=True)
class Trajectory:
    """The validations of one run: its rows of the table, and the scores it left."""

    rows: pd.DataFrame
    scores: Mapping[str, NDArray[np.float64]]

    def validations(self, asked: tuple[str, ...]) -> list[Validation]:
        """Validate with those of some augmentations that the run had and that were near the target before
        training; with the nearest where none was.

        Raises:
            LookupError: the run had none of them.
        """
        names = [name for name in asked if f"0 pseudo.{name}" in self.scores]
        if not names:
            raise LookupError(f"none of {', '.join(asked)} was watched")
        history = []
        informative: list[str] = []
        for i in range(len(self.rows)):
            pseudo = {name: self.scores[f"{i} pseudo.{name}"] for name in names}
            normal = self.scores[f"{i} normal"]
            sets = {name: PseudoSet(scores, 0, 0) for name, scores in pseudo.items()}  # type: ignore[arg-type]
            if not informative:
                first = validate(lambda x: x, normal, sets).by_augmentation
                miss = {name: abs(first[name] - TARGET) for name in names}
                informative = [n for n in names if miss[n] <= TOLERANCE or miss[n] == min(miss.values())]
            seen = {name: sets[name] for name in informative}
            history.append(validate(lambda x: x, normal, seen))  # type: ignore[arg-type]
        return history


def mean_of(names: tuple[str, ...]) -> Watch:
    """The verdict on the mean over augmentations."""

    def watch(run: Trajectory) -> tuple[Floats, int]:
        history = run.validations(names)
        return np.array([v.auroc for v in history]), replay(history, lambda h: early_stop(h, LONG).best_epoch)

    return watch


def each_of(names: tuple[str, ...], margin: float) -> Watch:
    """The same, and nothing is kept at which one augmentation lies `margin` standard errors below its peak."""

    def kept(history: list[Validation]) -> int:
        fine = [i for i in range(len(history)) if not fallen(history[: i + 1], margin)]
        allowed = [history[i] for i in fine]
        return fine[early_stop(allowed, LONG).best_epoch]

    def watch(run: Trajectory) -> tuple[Floats, int]:
        history = run.validations(names)
        worst = [
            min(v.by_augmentation[n] - history[0].by_augmentation[n] for n in v.influences) for v in history
        ]
        return np.array(worst), replay(history, kept)

    return watch


def fallen(history: list[Validation], margin: float) -> list[str]:
    """Name the augmentations of which the last validation lies `margin` standard errors below their highest."""
    last, names = history[-1], []
    for name in last.influences:
        peak = max(history, key=lambda v: v.by_augmentation[name])
        error = paired_standard_error(last.influences[name], peak.influences[name])
        if last.by_augmentation[name] - peak.by_augmentation[name] < -margin * error:
            names.append(name)
    return names


def replay(history: list[Validation], kept: Callable[[list[Validation]], int]) -> int:
    """Ask after every validation, and stop when none of the last `patience` was kept."""
    best = 0
    for i in range(len(history)):
        best = kept(history[: i + 1])
        if i - best >= LONG.patience:
            break
    return best


def lowest(column: str) -> Watch:
    """Keep the validation with the lowest number of a column."""

    def watch(run: Trajectory) -> tuple[Floats, int]:
        values = run.rows[column].to_numpy()
        return -values, int(values.argmin())

    return watch


def budget(columns: str, least: float) -> Watch:
    """Keep the last validation at which the mean of all columns so called is not below a number."""

    def watch(run: Trajectory) -> tuple[Floats, int]:
        values = run.rows[[c for c in run.rows if c.startswith(columns)]].mean(axis=1).to_numpy()
        return values, int(np.argmax(values < least) - 1 if (values < least).any() else len(values) - 1)

    return watch


def always(step: int) -> Watch:
    """Keep the validation after so many images, whatever is seen."""

    def watch(run: Trajectory) -> tuple[Floats, int]:
        seen = run.rows["images"].cumsum().to_numpy()
        return seen, int(np.argmin(abs(seen - step)))

    return watch


RULES: dict[str, Watch] = {
    "mean of the large": mean_of(LARGE),
    "mean of the faint": mean_of(FAINT),
    "mean of all": mean_of(LARGE + FAINT),
    "mean of lines and stains": mean_of(("line", "stain")),
    "mean of the large, none of all falls by 2": each_of(LARGE + FAINT, 2),
    "none of all falls by 3": each_of(LARGE + FAINT, 3),
    "none of the faint falls by 2": each_of(FAINT, 2),
    "lowest held-out distance": lowest("val/held_out_distance"),
    "CKA of held-out images at least .9": budget("drift/cka", 0.9),
    "CKA of held-out images at least .8": budget("drift/cka", 0.8),
    "retention at least .95": budget("retention", 0.95),
    "retention at least .9": budget("retention", 0.9),
    **{f"always {n} images": always(n) for n in (480, 960, 1440, 2880)},
}


def judge(rows: pd.DataFrame, folder: Path, score: str) -> pd.DataFrame:
    """A line for each rule and run."""
    lines = []
    for (name, settings, seed), run in rows.groupby(RUN, sort=False):
        with np.load(folder / scores_name(name, seed, settings)) as scores:
            trajectory = Trajectory(run.reset_index(drop=True), dict(scores))
        truth = run[f"test.{score}"].to_numpy()
        for rule, watch in RULES.items():
            try:
                seen, kept = watch(trajectory)
            except LookupError:  # this run has not what the rule looks at
                continue
            lines.append(
                {
                    "rule": rule,
                    "set": name,
                    "settings": settings,
                    "seed": seed,
                    "kept": kept,
                    "best": int(truth.argmax()),
                    "regret": truth.max() - truth[kept],
                    "gain": truth[kept] - truth[0],
                    "spearman": spearmanr(seen, truth).statistic if np.ptp(seen) * np.ptp(truth) else np.nan,
                }
            )
    return pd.DataFrame(lines)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--score", default="fused", show_default=True, help="Of test images, by which rules are judged.")
def main(folder: Path, score: str) -> None:
    """Judge all rules on the runs of FOLDER."""
    lines = judge(pd.read_csv(folder / "forgetting.csv"), folder, score)
    lines.to_csv(folder / "witnesses.csv", index=False)
    for column in ("kept", "regret", "gain"):
        wide = lines.pivot_table(index="rule", columns=["set", "seed"], values=column, sort=False)
        print(f"\n{column}\n{wide.round(4).to_string()}")
    table = lines.groupby("rule", sort=False).agg(
        regret=("regret", "mean"),
        worst=("regret", "max"),
        small=("regret", lambda r: (r <= 0.005).mean()),
        lowest_gain=("gain", "min"),
        gain=("gain", "mean"),
        spearman=("spearman", "median"),
    )
    print(f"\n{table.round(4).to_string()}")


if __name__ == "__main__":
    main()
