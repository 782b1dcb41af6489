"""Tables of `variation.py`: means over seeds, what other sets would choose, other ways to set a threshold."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ft.evaluation.working_points import conformal, conformal_varied

JUDGED = ("mtd", "kolektor", "macaroni1", "elpv-mono", "elpv-poly")  # sets whose test light is that of training
COPIES = 4  # varied copies of each calibration image
Floats = NDArray[np.float64]


def summarise(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """Average over seeds: a row for each set and detector, numbers at each strength beside each other; `gain`
    over the frozen encoder with statistics of clean images, `worst` of all seeds, losses with a star."""
    index = ["set", "encoder", "statistics"]
    wide = rows.pivot_table(index=index, columns="strength", values=[f"auroc.{score}", "rejected", "found"])
    wide.columns = [f"{name.removeprefix('auroc.')} {strength:g}" for name, strength in wide.columns]
    clean = rows[rows["strength"] == 0].set_index([*index, "seed"])[f"auroc.{score}"]
    frozen = clean.xs(("frozen", "clean"), level=("encoder", "statistics"))
    gains = (
        clean
        - frozen.reindex(
            pd.MultiIndex.from_arrays([clean.index.get_level_values(i) for i in (0, 3)])
        ).to_numpy()
    )
    wide["gain"] = gains.groupby(index).mean()
    wide["worst"] = gains.groupby(index).min()
    wide["loss"] = np.where(wide["gain"] < 0, "*", "")
    return wide


def side_by_side(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """Means over seeds, a row for each set, a column for each of the six detectors: AUROC as it is / varied /
    varied twice as much; share of good images rejected as they are / varied."""
    six = rows[rows["statistics"].isin(("clean", "varied"))]
    auroc, rejected = (
        six.pivot_table(index="set", columns=["encoder", "statistics", "strength"], values=name)
        for name in (f"auroc.{score}", "rejected")
    )
    order = [(e, s) for e in ("frozen", "fine-tuned clean", "fine-tuned varied") for s in ("clean", "varied")]
    cells = {
        f"{encoder}, {statistics} statistics": [
            " / ".join(f"{auroc.loc[name, (encoder, statistics, strength)]:.3f}" for strength in (0, 1, 2))
            + "; "
            + " / ".join(f"{rejected.loc[name, (encoder, statistics, strength)]:.0%}" for strength in (0, 1))
            for name in auroc.index
        ]
        for encoder, statistics in order
    }
    return pd.DataFrame(cells, index=auroc.index)


def left_out(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """For each set the variation of the statistics that is best on the other sets, by the mean of clean and
    varied AUROC of the frozen encoder, and what it and the default give on the set itself."""
    frozen = rows[(rows["encoder"] == "frozen") & (rows["seed"] == 0) & (rows["strength"] < 2)]
    table = frozen.pivot_table(
        index="statistics", columns="set", values=f"auroc.{score}"
    )  # mean of both strengths
    table = table.dropna(axis=1)  # sets that were measured with all of them
    judged = [name for name in table.columns if name in JUDGED] or list(table.columns)
    out = []
    for name in table.columns:
        others = [other for other in judged if other != name]
        if others and len(table):
            best = table[others].mean(axis=1).idxmax()
            out.append({"set": name, "others choose": best, "gives": table.loc[best, name]})
            out[-1] |= {"default": table.loc["varied", name], "clean": table.loc["clean", name]}
    return pd.DataFrame(out)


def spearman(watched: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of vicinal with test AUROC over the validations of each run that has three or more."""
    out = []
    for (encoder, name, seed), run in watched.groupby(["encoder", "set", "seed"]):
        if len(run) > 2:
            clean, varied = (run["vicinal"].corr(run[f"test {s}"], method="spearman") for s in (0, 1))
            out.append({"encoder": encoder, "set": name, "seed": seed, "test": clean, "varied test": varied})
    return pd.DataFrame(out)


def _rank(scores: Floats, rate: float) -> float:
    return conformal(scores, rate).threshold


def _same_guarantee(copies: Floats, rate: float) -> float:
    n = copies.shape[1]
    allowed = math.floor((len(copies) - 1) * (max(rate, 1 / (n + 1)) * (n + 1) - 1) + 1e-9)
    return max(_rank(copies[0], rate), float(np.sort(copies[1:], axis=None)[-1 - allowed]))


# thresholds from scores of calibration images `(1 + copies, n)`, by how they are set
THRESHOLDS = {
    "images alone": lambda copies, rate: _rank(copies[0], rate),
    "images, and copies with twice the guarantee of few images (default)": lambda copies, rate: (
        conformal_varied(copies, rate).threshold
    ),
    "images, and copies with the same guarantee": _same_guarantee,
    "highest score of each image and its copies": lambda copies, rate: _rank(copies.max(0), rate),
    "images and copies as if all were images": lambda copies, rate: _rank(copies.ravel(), rate),
}


def thresholds(files: Sequence[Path], score: str, rate: float) -> pd.DataFrame:
    """Good images rejected and anomalous ones found, as they are and varied, by each of the `THRESHOLDS`: means
    over the runs with these scores, fine-tuned with varied images."""
    rows = []
    for path in files:
        with np.load(path) as raw:
            rows += _of_run(dict(raw), score, rate)
    return (
        pd.DataFrame(rows).groupby("threshold", sort=False).mean(numeric_only=True) if rows else pd.DataFrame()
    )


def _of_run(raw: Mapping[str, Floats], score: str, rate: float) -> list[dict[str, Any]]:
    anomalous, prefix = raw["labels"].astype(bool), "fine-tuned varied varied"
    copies = raw[f"{prefix} calibration {score}"].reshape(1 + COPIES, -1)
    rows = []
    for name, threshold in THRESHOLDS.items():
        row: dict[str, Any] = {"threshold": name}
        for strength in (0, 1):
            rejected = raw[f"{prefix} {strength} {score}"] > threshold(copies, rate)
            row |= {
                f"rejected {strength}": rejected[~anomalous].mean(),
                f"found {strength}": rejected[anomalous].mean(),
            }
        rows.append(row)
    return rows
