"""Which way to watch would have kept the right epoch? Judged on scores forgetting.py left, without training.

    python benchmarks/forgetting.py --output results -s schedule.max_steps=300 -s schedule.max_epochs=10 \\
        -s expert.schedule.epoch_steps=30 -s expert.validation.tolerance=0.49 \\
        -s "validation.augmentations=[cutmix,cutout,cutpaste,scar,line,stain,blend,warp]"
    python benchmarks/witnesses.py results

Prints for each rule and run the validation it keeps, what the best one would have been worth more on test
images (regret), and what the kept one is worth more than the pretrained encoder (gain); then a line for each
rule, with the rank correlation of what it watches with the truth, and what would be chosen with one set left
out. Test images judge the rules alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import click
import numpy as np
import pandas as pd
from choices import RUN, scores_name
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr

from anomaly_ft.finetune.early_stopping import StoppingRule, early_stop, paired_standard_error
from anomaly_ft.finetune.records import PseudoSet, Validation
from anomaly_ft.finetune.validation import validate
from anomaly_ft.metrics import Floats

TARGET, TOLERANCE = 0.8, 0.12  # as recipes have them: further from it an augmentation is not informative
DENSE_WEIGHT = 5  # of the dense score in the fused one
FAMILIES = {
    "large": ("cutmix", "cutpaste", "scar", "cutout"),
    "faint": ("line", "stain", "blend", "warp"),
    "all": ("cutmix", "cutpaste", "scar", "cutout", "line", "stain", "blend", "warp"),
}
SCORES: dict[str, Callable[[Floats], Floats]] = {  # of scores (n, 2) in standard deviations of normal images
    "fused": lambda both: both @ [[1], [DENSE_WEIGHT]],
    "both": lambda both: both,  # each apart, then the mean of their validations
}
KEPT: dict[str, Callable[[list[Validation]], int]] = {
    "better by 1": lambda history: early_stop(history, replace(LONG, tolerance=1)).best_epoch,
    "better by 2": lambda history: early_stop(history, LONG).best_epoch,
    "highest": lambda history: early_stop(history, replace(LONG, tolerance=0)).best_epoch,
    "last within 1": lambda history: last_within(history, 1),
}
LONG = StoppingRule(max_epochs=10_000)
Watch = Callable[["Trajectory"], tuple[Floats, int]]  # what is watched at each validation, and the one kept


@dataclass(frozen=True)
class Trajectory:
    """The validations of one run: its rows of the table, and the scores it left."""

    rows: pd.DataFrame
    scores: Mapping[str, NDArray[np.float64]]

    def validations(self, families: str, score: str) -> list[Validation]:
        """Validate with those of some augmentations that the run had and that were near the target before
        training; with the nearest where none was.

        Raises:
            LookupError: the run had none of them.
        """
        names = [name for name in FAMILIES[families] if f"0 pseudo.{name}" in self.scores]
        if not names:
            raise LookupError(f"none of the {families} augmentations was watched")
        history = []
        for i in range(len(self.rows)):
            normal = self.scores[f"{i} normal"]
            location, spread = normal.mean(0), normal.std(0, ddof=1)

            def scored(raw: Floats, location: Floats = location, spread: Floats = spread) -> Floats:
                return SCORES[score]((raw - location) / spread)

            sets = {name: PseudoSet(self.scores[f"{i} pseudo.{name}"], 0, 0) for name in names}  # type: ignore[arg-type]
            if not history:
                first = mean_validation(scored, normal, sets).by_augmentation
                miss = {name: abs(first[name] - TARGET) for name in names}
                names = [n for n in names if miss[n] <= TOLERANCE] or [min(names, key=lambda n: miss[n])]
                sets = {name: sets[name] for name in names}
            history.append(mean_validation(scored, normal, sets))
        return history


def mean_validation(
    scored: Callable[[Floats], Floats], normal: Floats, sets: Mapping[str, PseudoSet]
) -> Validation:
    """Validate each column of what `scored` makes of scores `(n, 2)`, and average over the columns."""
    columns = range(scored(normal).shape[1])
    each = [validate(lambda raw, i=i: scored(raw)[:, i], scored(normal)[:, i], sets) for i in columns]  # type: ignore[misc]
    return Validation(
        float(np.mean([one.auroc for one in each])),
        {name: float(np.mean([one.by_augmentation[name] for one in each])) for name in sets},
        {name: np.mean([one.influences[name] for one in each], axis=0) for name in each[0].influences},
        float(np.mean([one.normal_score_mean for one in each])),
    )


def verdict(families: str, score: str, kept: str) -> Watch:
    """Watch some augmentations by some score, and keep an epoch in one way, counted in standard errors;
    training ends when nothing later was kept for a while."""

    def watch(run: Trajectory) -> tuple[Floats, int]:
        history, best = run.validations(families, score), 0
        for i in range(len(history)):
            best = KEPT[kept](history[: i + 1])
            if i - best >= LONG.patience:
                break
        return np.array([validation.auroc for validation in history]), best

    return watch


def last_within(history: list[Validation], errors: float) -> int:
    """Find the last validation at most so many standard errors below the highest before it."""
    peak = best = 0
    for i, validation in enumerate(history):
        error = paired_standard_error(validation.influence, history[peak].influence)
        if i and history[peak].auroc - validation.auroc < errors * error:
            best = i
        if validation.auroc > history[peak].auroc:
            peak = best = i
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
    **{
        f"{families}, {score}, {kept}": verdict(families, score, kept)
        for families, score, kept in product(FAMILIES, SCORES, KEPT)
    },
    "lowest held-out distance": lowest("val/held_out_distance"),
    "CKA of held-out images at least .9": budget("drift/cka", 0.9),
    "CKA of held-out images at least .8": budget("drift/cka", 0.8),
    "retention at least .99": budget("retention", 0.99),
    **{f"always {n} images": always(n) for n in (480, 960, 1440, 2400)},
}


def left_out(lines: pd.DataFrame) -> pd.DataFrame:
    """For each set the rule with the least regret on the mean of the *other* sets, and what it keeps there."""
    means = lines.pivot_table(index="rule", columns="set", values=["regret", "gain"], sort=False)
    rows = []
    for name in lines["set"].unique():
        rule = means["regret"].drop(columns=name).mean(axis=1).idxmin()
        at = means.loc[rule]
        rows.append({"set": name, "rule": rule, "regret": at["regret", name], "gain": at["gain", name]})
    return pd.DataFrame(rows)


DRAWN = {
    "faint, fused, better by 2": "faint pseudo-anomalies, by the fused score (default)",
    "large, both, last within 1": "large ones, the last within one standard error",
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


def draw(rows: pd.DataFrame, folder: Path, score: str, path: Path) -> None:
    """Plot what is watched, dotted the validation kept, beside the truth; a panel for each run."""
    runs = list(rows.groupby(RUN, sort=False))
    figure = Figure(figsize=(4.2 * len(runs), 3.6), layout="constrained")
    for axes, ((name, settings, seed), run) in zip(
        figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True
    ):
        with np.load(folder / scores_name(name, seed, settings)) as scores:
            trajectory = Trajectory(run.reset_index(drop=True), dict(scores))
        seen = run["images"].cumsum()
        for (rule, label), colour in zip(DRAWN.items(), ("tab:blue", "tab:gray"), strict=True):
            try:
                watched, kept = RULES[rule](trajectory)
            except LookupError:
                continue
            axes.plot(seen, watched, color=colour, marker=".", label=label)
            axes.axvline(seen.iloc[kept], color=colour, linestyle=":")
        twin = axes.twinx()
        twin.plot(seen, run[f"test.{score}"], color="tab:orange", linewidth=2.2)
        axes.set(title=f"{name}, seed {seed}", xlabel="images seen in training", ylabel="vicinal AUROC")
        twin.set_ylabel(f"test AUROC, {score} score", color="tab:orange")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
    figure.savefig(path, dpi=110)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--score", default="fused", show_default=True, help="Of test images, by which rules are judged.")
def main(folder: Path, score: str) -> None:
    """Judge all rules on the runs of FOLDER."""
    rows = pd.read_csv(folder / "forgetting.csv")
    lines = judge(rows, folder, score)
    draw(rows, folder, score, folder / "witnesses.png")
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
    if lines["set"].nunique() > 1:
        print(f"\nchosen on the other sets\n{left_out(lines).round(4).to_string(index=False)}")


if __name__ == "__main__":
    main()
