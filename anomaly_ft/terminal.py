"""What a person sees while a run works: progress bars, a line for each epoch, the final table.

Everything goes to stderr; stdout is for results that a program reads.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

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

from anomaly_ft.finetune.loop import EpochRecord

T = TypeVar("T")


class Terminal:
    """Progress and messages on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def track(
        self, items: Iterable[T], description: str, total: int, size: Callable[[T], int] = lambda item: 1
    ) -> Iterator[T]:
        """Pass items on under a progress bar that counts `size(item)` images, with speed and time left."""
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        bars = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        with bars as progress:
            task = progress.add_task(description, total=total, rate="")
            for item in items:
                yield item
                progress.advance(task, size(item))
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.0f} img/s" if speed else "")

    def epoch(self, record: EpochRecord, score: str) -> None:
        """One line for each epoch: loss, vicinal AUROC, speed, and what the verdict makes of it."""
        validation, verdict = record.validation, record.verdict
        parts = [f"epoch {record.epoch:>3}" if record.epoch else "epoch   0 (pretrained)"]
        if record.train_loss is not None:
            parts.append(f"train loss {record.train_loss:.3f}")
        parts.append(f"vicinal AUROC ({score}) {validation.auroc:.4f}" if validation else "not finite")
        if record.train_seconds:
            parts.append(f"{record.images / record.train_seconds:.0f} img/s")
        if verdict.best_epoch == record.epoch and record.epoch:
            parts.append("new best")
        if verdict.reason:
            parts.append(f"stop: {verdict.reason}, best epoch {verdict.best_epoch}")
        self.say("  ".join(parts))

    def results(self, summary: Mapping[str, Any]) -> None:
        """The final table: frozen against fine-tuned on the test split."""
        frozen, tuned = summary["frozen_test"], summary["test"]
        if frozen is None or tuned is None:
            self.say("No test split was found, so there is no test number.")
            return
        table = Table(title=f"{summary['name']}: test split", title_justify="left")
        table.add_column("")
        for heading in ("frozen", "fine-tuned", "gain"):
            table.add_column(heading, justify="right")
        labels = {"image_auroc": f"image AUROC ({summary['score']})", "image_ap": "image average precision"}
        labels |= {f"{name}_image_auroc": f"image AUROC, {name} score" for name in ("pooled", "dense", "fused")}
        for key, label in labels.items():
            before, after = frozen[key], tuned[key]
            gain = None if before is None or after is None else after - before
            table.add_row(label, _number(before), _number(after), _number(gain, "+.4f"))
        self.console.print(table)
        for key, label in (("false_positive_rate", "normal"), ("true_positive_rate", "anomalous")):
            if tuned[key] is not None:
                self.say(f"At the threshold {tuned[key]:.1%} of the {label} test images are rejected.")


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
