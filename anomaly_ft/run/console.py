"""Terminal output of a run: progress bars, a line for each epoch, the final table.

Everything goes to stderr; stdout is for results that a program reads.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from anomaly_ft.evaluation.metric_names import METRICS, on_test
from anomaly_ft.run.known_text import known_sentences
from anomaly_ft.run.run_summary import EvaluationSummary, FinishedRun, RunSummary
from anomaly_ft.run.summary_parts import Numbers
from anomaly_ft.run.summary_text import at_the_threshold, condition_cells, doubtful, story_of, varied_sentence

if TYPE_CHECKING:  # the data command shows progress too, and must not wait for torch
    from anomaly_ft.finetune.records import EpochRecord

T = TypeVar("T")
QUIET_SECONDS = 30  # between two lines of progress in a log file


class Terminal:
    """Progress and messages on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.doing = "scoring"  # what passes over images are for just now
        self._tracking = False
        self._said = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line on stderr."""
        self.console.print(text, markup=False, soft_wrap=True)
        self._said = time.monotonic()

    def track(
        self,
        items: Iterable[T],
        description: str,
        total: int | None,
        size: Callable[[T], int] = lambda item: 1,
        *,
        unit: str = "img/s",
    ) -> Iterator[T]:
        """Pass items on under a progress bar that counts `size(item)` images, with speed and, where the
        total is known, the time left; without a `unit` no speed is shown. Where nobody watches, in a log file,
        a line now and then takes its place. Of two that are nested the outer one is shown."""
        if self._tracking:
            yield from items
            return
        self._tracking = True
        try:
            follow = self._bar if self.console.is_terminal else self._lines
            yield from follow(items, description, total, size, unit)
        finally:
            self._tracking = False

    def passes(self, batches: Iterator[Any], total: int) -> Iterator[Any]:
        """Track a pass of the encoder over batches of `total` images."""
        return self.track(batches, self.doing, total, len)

    def _lines(
        self, items: Iterable[T], description: str, total: int | None, size: Callable[[T], int], unit: str
    ) -> Iterator[T]:
        done, began = 0, time.monotonic()
        for item in items:
            yield item
            done, now = done + size(item), time.monotonic()
            if now - self._said >= QUIET_SECONDS:  # of many short passes, too: each alone would say nothing
                of = f" of {total}" if total else ""
                speed = f"  {done / max(now - began, 1e-9):.0f} {unit}" if unit else ""
                self.say(f"{description} {done}{of}{speed}")

    def _bar(
        self, items: Iterable[T], description: str, total: int | None, size: Callable[[T], int], unit: str
    ) -> Iterator[T]:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(description, total=total, rate="")
            for item in items:
                yield item
                progress.advance(task, size(item))
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.0f} {unit}" if speed and unit else "")

    def epoch(self, record: "EpochRecord", score: str) -> None:
        """Print one line for each epoch: loss, vicinal AUROC, speed, and the stop decision."""
        validation, verdict = record.validation, record.verdict
        parts = [f"epoch {record.epoch:>3}" if record.epoch else "epoch   0 (pretrained)"]
        if record.train_loss is not None:
            parts.append(f"{METRICS['train/loss'].label} {record.train_loss:.3f}")
        label = METRICS["val/vicinal_auroc"].label
        parts.append(f"{label} ({score}) {validation.auroc:.4f}" if validation else "not finite")
        if record.train_seconds:
            parts.append(f"{record.images / record.train_seconds:.0f} img/s")
        if verdict.best_epoch == record.epoch and record.epoch:
            parts.append("kept so far")
        if verdict.reason:
            parts.append(f"stop: {verdict.reason}, epoch {verdict.best_epoch} is kept ({verdict.why})")
        self.say("  ".join(parts))

    def results(self, run: FinishedRun) -> None:
        """Print the final table, frozen against fine-tuned on the test split, and what happened."""
        summary = run.summary
        if summary.test is None:
            self.say("No test split was found, so there is no test number.")
        else:
            self._compare(summary, summary.frozen_test or {}, summary.test)
        if sentence := varied_sentence(summary):
            self.say(sentence)
        for sentence in known_sentences(summary.known_defects):
            self.say(sentence)
        self.say(story_of(summary))
        self.say(f"run folder  {run.folder}")
        self.say(f"report      {run.folder}/report.html")
        if summary.mlflow_run_id:
            self.say(f"compare     anomaly-ft ui --store {run.mlflow_uri}")
        if sentence := doubtful(summary):
            self.say(f"look at     {sentence}")
        if summary.shortcuts:
            self.say(f"worth       {summary.shortcuts.sentence}")

    def evaluation(self, summary: EvaluationSummary, folder: Path) -> None:
        """Print the table of an evaluation, each number with its 95 % interval."""
        table = Table(title=f"{summary.run}: {summary.data.root}", title_justify="left")
        table.add_column("")
        for heading in ("value", "95 % interval"):
            table.add_column(heading, justify="right")
        for name, value in (summary.test or {}).items():
            ends = summary.test_intervals.get(name)
            if name == "false_positive_rate" and summary.test_threshold and summary.test_threshold.observed:
                ends = (summary.test_threshold.observed.low, summary.test_threshold.observed.high)
            if value is not None and not on_test(name).detail:
                between = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
                table.add_row(on_test(name).label, _number(value), between)
        self.console.print(table)
        for row in summary.test_attention:
            if row.elsewhere:
                self.say(f"{row.kind}: the detector looks elsewhere than at the defect, see the report")
        if summary.conditions:
            self.table(f"by {summary.by}", [condition_cells(row) for row in summary.conditions])
        for notice in summary.notices:
            self.say(f"note: {notice}")
        self.say(f"report      {folder}/report.html")

    def table(self, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Print rows of equal keys as a table; no cell is cut or folded."""
        self.say(title)
        show_table([*rows[0]], [[*row.values()] for row in rows], self.console)

    def _compare(self, summary: RunSummary, frozen: Numbers, tuned: Numbers) -> None:
        title = f"{summary.name}: test split, {summary.score} score"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)  # 80 columns hold it
        table.add_column("", no_wrap=True)
        for heading in ("frozen", "fine-tuned", "gain", "95 % interval"):
            table.add_column(heading, justify="right", no_wrap=True)
        decides = f"{summary.score}_image_auroc"
        for name in ("image_ap", *(name for name in tuned if name.endswith("_image_auroc"))):
            before, after = frozen.get(name), tuned.get(name)
            gain = None if before is None or after is None else after - before
            style = "bold" if name == decides else ""
            ends = summary.gain_intervals.get("image_auroc" if name == decides else name)
            between = f"{ends[0]:+.4f} to {ends[1]:+.4f}" if ends else ""
            cells = (_number(before), _number(after), _number(gain, "+.4f"), between)
            table.add_row(on_test(name).label, *cells, style=style)
        self.console.print(table)
        for sentence in at_the_threshold(summary):
            self.say(sentence)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """Print a table, a line for each row; where lines are too short for that, a column. No cell is cut or
    folded: what fits neither way is printed as wide as it is."""
    console, wide = console or Console(), Console(width=100_000)
    across, down = _plain(headings, rows), _plain(("", *(row[0] for row in rows)), _turned(headings, rows))
    widths = {table: wide.measure(table).maximum for table in (across, down)}
    room = console.width if console.is_terminal else widths[across]
    table = next((table for table, width in widths.items() if width <= room), across)
    Console(file=console.file, highlight=False, width=max(console.width, widths[table])).print(table)


def _turned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return [(heading, *(row[i] for row in rows)) for i, heading in enumerate(headings) if i]


def _plain(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
