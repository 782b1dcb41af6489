"""`anomaly-ft analyse subspace`: which directions of features tell defects, frozen and fine-tuned."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache, partial
from pathlib import Path

import numpy as np

from anomaly_ft.analysis.subspaces import (
    FOLDS,
    SUM,
    SubspaceRow,
    band_rows,
    folds_of,
    over_folds,
    subspace_rows,
)
from anomaly_ft.evaluation.study_figures import direction_figure, subspace_figure
from anomaly_ft.metrics import Floats
from anomaly_ft.model.inference import pooled_features
from anomaly_ft.run.both_encoders import (
    FROZEN,
    TUNED,
    BothEncoders,
    digests,
    gaussian_of,
    images_of,
    open_both,
    pixels_of,
    refuse_without_test,
)
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.study import Row, log_with_run, open_study

SHOWN = ("all", "PCA 0.99", "NPCA 0.99", "NPCA 0.9999", "random as NPCA 0.99")
NAME = "subspace"


def study_subspaces(
    folder: Path, terminal: Terminal, *, root: str | None = None, output: Path | None = None
) -> tuple[Path, list[Row]]:
    """Measure subspaces of the features of a finished run; returns the study's folder and its table.

    Args:
        folder: of the run.
        terminal: for progress.
        root: where the run's images are now; unset: where they were.
        output: where the folder of studies goes; unset: beside the run.

    Raises:
        RunError: see `open_both`; or too few test images.
    """
    both = open_both(folder, terminal, root)
    gaussian_of(folder, both.run, "a study of subspaces")
    refuse_without_test(folder, both.setup, "a study of subspaces", FOLDS)
    name = folder.resolve().name
    place = (output or folder.resolve().parent) / f"{name}-studies" / NAME
    settings = {"study": NAME, "run": name, "folds": FOLDS, **digests(folder, both.setup)}
    with open_study(place, settings, terminal) as study:
        known = images_of(both.setup)
        folds = folds_of(known.train, known.anomalous, seed=both.recipe.seed)

        @cache
        def features(encoder: str) -> Mapping[str, Floats]:
            return _features(both, encoder)

        def one(encoder: str, k: int) -> list[Row]:
            rows = subspace_rows(features(encoder), known.anomalous, folds[k], number=k, seed=both.recipe.seed)
            return [asdict(row) for row in rows]

        def bands() -> list[Row]:
            before, after = features(FROZEN), features(TUNED)
            rows_of_bands = [
                row
                for level in before
                for row in band_rows(level, before[level], after[level], known.train, known.anomalous)
            ]
            return [asdict(row) for row in rows_of_bands]

        steps = [(encoder, k) for encoder in both.encoders for k in range(FOLDS)]
        single: list[Row] = []
        for encoder, k in terminal.track(steps, "subspaces", len(steps), unit=""):
            rows = study.step(f"{encoder} fold {k}", partial(one, encoder, k))
            single += [{"encoder": encoder, **row} for row in rows]
        moved = study.step("directions", bands) if TUNED in both.encoders else []
        table = _table(single)
        figures = {"subspaces": subspace_figure(table, SHOWN)}
        if moved:
            figures["directions"] = direction_figure(moved)
        tables = {"subspaces": table, "folds": single} | ({"directions": moved} if moved else {})
        study.write(tables, figures)
        log_with_run(study, folder, both.recipe)
    return place, table


def shown_rows(table: list[Row]) -> list[dict[str, str]]:
    """Format the subspaces of the sum over levels, a column for each encoder, for the terminal."""
    encoders = list(dict.fromkeys(row["encoder"] for row in table))
    by_encoder = {(row["encoder"], row["subspace"]): row for row in table if row["level"] == SUM}
    names = list(dict.fromkeys(name for _, name in by_encoder))
    return [
        {
            "subspace": name,
            "dimensions": f"{by_encoder[encoders[0], name]['dimensions']:.0f}",
            **{f"AUROC {encoder}": _auroc(by_encoder.get((encoder, name))) for encoder in encoders},
        }
        for name in names
    ]


def _auroc(row: Row | None) -> str:
    if row is None or row["auroc"] is None:
        return "-"
    return f"{row['auroc']:.4f}" + (f" ± {row['sem']:.4f}" if row["sem"] is not None else "")


def _table(rows: list[Row]) -> list[Row]:
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    names = [field.name for field in fields(SubspaceRow)]
    plain = {
        encoder: [
            SubspaceRow(**{name: row[name] for name in names}) for row in rows if row["encoder"] == encoder
        ]
        for encoder in encoders
    }
    return [{"encoder": encoder, **row} for encoder in encoders for row in over_folds(plain[encoder])]


def _features(both: BothEncoders, encoder: str) -> Mapping[str, Floats]:
    """Compute features of the images of `images_of` by one encoder, by level."""
    chosen, compute = both.encoders[encoder], both.setup.compute
    parts = [pooled_features(chosen, pixels, compute) for pixels in pixels_of(both.setup)]
    return {
        level: np.concatenate([part[i] for part in parts]).astype(np.float64)
        for i, level in enumerate(chosen.levels)
    }
