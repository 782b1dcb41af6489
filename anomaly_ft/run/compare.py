"""Compare runs side by side: the settings in which they differ, and what came of each.

A run is read from its folder or from MLflow; both give the same row.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.metric_names import metric
from anomaly_ft.run.open import finished_runs, is_finished, open_recipe, open_summary, refuse_unfinished
from anomaly_ft.run.summary import final_metrics
from anomaly_ft.run.summary_text import sparkline, verdict_of
from anomaly_ft.tracking.store import LoggedRun, read_logged

# what is shown of a run
NUMBERS = (
    "frozen/image_auroc",
    "test/image_auroc",
    "gain/image_auroc",
    "gain/vicinal_auroc",
    "threshold/guaranteed_fpr",
    "test/false_positive_rate",
)
CURVE = "val/vicinal_auroc"
NO_DIFFERENCE = {"name"}  # of the run; it stands in the first column
LONGEST = 40  # characters of a setting in a table for people


@dataclass(frozen=True)
class Row:
    """One run: settings by dotted key, metrics by the names of `metric_names`, the validation curve."""

    name: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float | None]
    curve: Sequence[float]
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """A table: a heading for each column, a row for each run."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def csv(self) -> str:
        """Format as CSV, headings first."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.headings, *self.rows])
        return buffer.getvalue()

    def markdown(self) -> str:
        """Format as a Markdown table."""
        lines = [self.headings, ("---",) * len(self.headings), *self.rows]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def find_rows(runs: Sequence[str], store: str) -> list[Row]:
    """Find a row for each run folder, MLflow run id, or folder of run folders, in the order named.

    An id of a run with children stands for its children.

    Raises:
        RunError: something that is none of these, or not a finished run.
    """
    rows: list[Row] = []
    for run in runs:
        folder = Path(run).expanduser()
        if folder.is_dir():
            rows += [_from_folder(path) for path in _runs_in(folder)]
        else:
            rows += [_from_logged(logged) for logged in read_logged(store, run)]
    return rows


def compare(rows: Sequence[Row], *, exact: bool = False) -> Comparison:
    """Tabulate the rows: run, settings in which they differ, what came of it.

    Args:
        rows: at least one.
        exact: numbers with all their digits and settings in full, for programs.
    """
    differing = [key for key in _keys(rows) if len({row.settings.get(key, "") for row in rows}) > 1]
    numbers = [name for name in NUMBERS if any(row.metrics.get(name) is not None for row in rows)]
    headings = [
        "run",
        *differing,
        *(name if exact else metric(name).label for name in (*numbers, CURVE)),
        "verdict",
    ]
    cells = [
        (
            row.name,
            *(_shortened(row.settings.get(key, ""), exact) for key in differing),
            *(_number(row.metrics.get(name), "" if exact else metric(name).form) for name in numbers),
            " ".join(map(repr, row.curve)) if exact else sparkline(row.curve),
            row.verdict,
        )
        for row in rows
    ]
    return Comparison(tuple(headings), tuple(cells))


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run, else the finished runs in it."""
    if is_finished(folder):
        return [folder]
    runs = finished_runs(folder)
    if not runs:
        if (folder / "recipe.yaml").exists():
            refuse_unfinished(folder)
        raise RunError(f"{folder}: neither a finished run nor a folder of finished runs")
    return runs


def _from_folder(folder: Path) -> Row:
    summary = open_summary(folder)
    return Row(
        folder.resolve().name,
        {key: str(value) for key, value in open_recipe(folder).flat().items()},
        final_metrics(summary),
        summary.curve,
        verdict_of(summary),
    )


def _from_logged(run: LoggedRun) -> Row:
    outcome = run.tags.get("verdict", run.status.lower())
    return Row(run.name, run.params, run.metrics, run.curve(CURVE), outcome)


def _keys(rows: Iterable[Row]) -> list[str]:
    """Collect all settings in the order of the first row, then those that others have."""
    return [
        key for key in dict.fromkeys(key for row in rows for key in row.settings) if key not in NO_DIFFERENCE
    ]


def _shortened(value: str, exact: bool) -> str:
    if exact or len(value) <= LONGEST:
        return value
    return "…" + value[1 - LONGEST :]


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    if form:
        return format(value, form)
    return repr(value)
