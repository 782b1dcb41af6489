"""What the table of forgetting.py says: a line for each run, and what would be chosen with one set left out."""

import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.gaussian.settings import SCORES

RUN = ["set", "settings", "seed"]  # what tells one run of the table from another
LONGEST = 150  # characters of settings in a file's name
WEIGHTS = (1, 3, 5, 8)  # of the dense score in the fused one


def summarise(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """A line for each run: frozen, fine-tuned, gain, regret, and how well validation ranks the epochs."""
    lines = []
    for (name, settings, seed), run in rows.groupby(RUN, sort=False):
        truth, chosen = run[f"test.{score}"].to_numpy(), int(run["chosen"].iloc[0])
        line = {"set": name, "settings": settings, "seed": seed}
        for each in SCORES:
            values = run[f"test.{each}"].to_numpy()
            line |= {f"frozen {each}": values[0], f"gain {each}": values[chosen] - values[0]}
        varied = np.ptp(run["vicinal_auroc"]) > 0 and np.ptp(truth) > 0
        line |= {
            "vicinal": run["vicinal_auroc"].iloc[chosen] - run["vicinal_auroc"].iloc[0],
            "chosen": chosen,
            "stopped": run["stopped"].iloc[0],
            "oracle": int(truth.argmax()),
            "regret": truth.max() - truth[chosen],
            "spearman": spearmanr(run["vicinal_auroc"], truth).statistic if varied else np.nan,
            "reason": run["reason"].iloc[0],
            "minutes": run["minutes"].iloc[0],
        }
        lines.append(line)
    return pd.DataFrame(lines)


def steps_left_out(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """How long to train, chosen without the set that it is judged on: for each set the number of images seen in
    training that is best on the mean of the *other* sets, and what it gains there; between validations by a
    straight line."""
    gains: dict[str, list[np.ndarray]] = {}
    seen = np.arange(0, rows.groupby(RUN)["images"].sum().max() + 1, 80)
    for (name, _, _), run in rows.groupby(RUN, sort=False):
        truth = run[f"test.{score}"].to_numpy()
        gains.setdefault(name, []).append(np.interp(seen, run["images"].cumsum(), truth - truth[0]))
    means = pd.DataFrame({name: np.mean(curves, axis=0) for name, curves in gains.items()}, index=seen)
    lines = []
    for name in means.columns if len(means.columns) > 1 else []:
        chosen = means.drop(columns=name).mean(axis=1).idxmax()
        line = {"set": name, "images best on the others": chosen, f"gain {score}": means.loc[chosen, name]}
        lines.append({**line, "in hindsight": means[name].max()})
    return pd.DataFrame(lines)


def settings_left_out(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """A column for each set, of the seeds that all settings have: the gain of each setting; what is chosen on
    the mean of the *other* sets by test AUROC, and by vicinal AUROC, which needs no test image; what that
    gains."""
    runs = summarise(rows, score).rename(columns={f"gain {score}": "gain"})
    count = runs.groupby(["set", "seed"])["settings"].transform("nunique")
    means = runs[count == runs["settings"].nunique()].groupby(["settings", "set"], sort=False)
    gains, vicinal = means["gain"].mean().unstack("set"), means["vicinal"].mean().unstack("set")
    if len(gains.columns) < 2:
        return pd.DataFrame()
    lines = {f"gain, {settings}": gains.loc[settings] for settings in gains.index}
    lines |= {f"vicinal, {settings}": vicinal.loc[settings] for settings in gains.index}
    for by, table in (("test", gains), ("vicinal", vicinal)):
        chosen = {name: table.drop(columns=name).mean(axis=1).idxmax() for name in gains.columns}
        lines[f"chosen on the others by {by} AUROC"] = pd.Series(chosen)
        lines["its gain, " + by] = pd.Series({name: gains.loc[chosen[name], name] for name in chosen})
    return pd.DataFrame(lines).T[list(gains.columns)]


def dense_weights(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Frozen fused AUROC and mean and worst gain over seeds, had the dense score counted otherwise; of the
    scores that the runs left in `folder`."""
    lines = []
    for (name, settings, seed), run in rows.groupby(RUN, sort=False):
        kept, path = int(run["chosen"].iloc[0]), folder / scores_name(name, seed, settings)
        if not path.exists():
            continue
        with np.load(path) as found:
            for weight in WEIGHTS:
                frozen, tuned = (
                    image_auroc(found["labels"], found[f"{i} pooled"] + weight * found[f"{i} dense"])
                    for i in (0, kept)
                )
                lines.append({"set": name, "dense counts": weight, "frozen": frozen, "gain": tuned - frozen})
    if not lines:
        return pd.DataFrame()
    table = pd.DataFrame(lines).groupby(["set", "dense counts"], sort=False)
    return table.agg(frozen=("frozen", "mean"), gain=("gain", "mean"), worst=("gain", "min")).reset_index()


def scores_name(name: str, seed: int, settings: str) -> str:
    """Of the file with the scores of a run's test images; long settings are cut and told apart by a digest."""
    label = re.sub("[^A-Za-z0-9.=_]", "-", settings)
    if len(label) > LONGEST:
        label = f"{label[:LONGEST]}-{sha256(settings.encode()).hexdigest()[:12]}"
    return f"scores-{name}-{seed}-{label}.npz"
