"""Choose between the runs of a sweep that differ in nothing but how they trained, by vicinal validation.

So blocks are fine-tuned one at a time, each from the pretrained weights, and the best is taken without a real
anomaly (after Barakat and Huang, "Improving Reliability of Fine-tuning with Block-wise Optimisation", 2023).
Test numbers stand beside the choice and have no say in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_ft.recipe.sweep import Job

CHOICE = "chosen by validation"
# what leaves the pretrained encoder's detector, and so the pseudo-anomalies of validation, as they are
OF_TRAINING = (
    "encoder.train_blocks",
    "encoder.adapt",
    "expert.encoder.rank",
    "objective.",
    "optimizer.",
    "schedule.",
    "expert.objective.",
    "expert.optimizer.",
    "expert.schedule.",
)
# what names a run, and what says where and how fast it is computed
OF_NO_RUN = ("name", "tracking.", "runtime.", "expert.tracking.", "expert.runtime.")


def comparable(jobs: Sequence[Job]) -> bool:
    """Tell whether settings differ, and only in how is trained: then vicinal AUROCs start at the same detector,
    and are of the same images."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for job in jobs:
        groups.setdefault((job.category, job.recipe.seed), []).append(job.recipe.flat())
    differing = {
        key
        for settings in groups.values()
        for key in settings[0]
        if any(other[key] != settings[0][key] for other in settings) and not key.startswith(OF_NO_RUN)
    }
    return bool(differing) and all(key.startswith(OF_TRAINING) for key in differing)


def chosen(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Select for each category and seed the run whose vicinal AUROC gained most, the first of equal ones; where
    none gained that is a run that kept the pretrained encoder. Runs that failed are no candidates."""
    best: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        place = row["category"], row["seed"]
        if row["error"] or row["vicinal_gain"] is None:
            continue
        if place not in best or row["vicinal_gain"] > best[place]["vicinal_gain"]:
            best[place] = row
    names: dict[str, list[str]] = {}
    for (category, _), row in best.items():
        names.setdefault(category, []).append(row["setting"] if row["kept_epoch"] else "frozen")
    return [{**row, "setting": f"{CHOICE}: {', '.join(names[row['category']])}"} for row in best.values()]
