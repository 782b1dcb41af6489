"""Progress, as a terminal and as a log file show it."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from summaries import PLAIN

from anomaly_ft.finetune.records import EpochRecord, StopDecision, Validation
from anomaly_ft.run import console
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.run_summary import FinishedRun, RunSummary


def shown(terminal: Terminal, *, watched: bool) -> io.StringIO:
    """What the terminal prints from now on, as if somebody watched or as to a file."""
    out = io.StringIO()
    terminal.console = Console(file=out, force_terminal=watched, width=120, highlight=False)
    return out


@pytest.mark.parametrize("watched", [True, False])
def test_what_is_tracked_comes_through_whole_and_in_order(watched: bool) -> None:
    terminal = Terminal()
    out = shown(terminal, watched=watched)
    assert list(terminal.track(range(5), "scoring", 5)) == [0, 1, 2, 3, 4]
    assert ("scoring" in out.getvalue()) is watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the terminal sees in place of true ones, in a list of one."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def slowly(items: Iterable[list[int]], clock: list[float], seconds: float) -> Iterator[list[int]]:
    """Items that take their time."""
    for item in items:
        clock[0] += seconds
        yield item


def test_a_log_file_gets_a_line_now_and_then(clock: list[float]) -> None:
    terminal = Terminal()
    out = shown(terminal, watched=False)
    list(terminal.track(slowly([[0] * 8] * 4, clock, 16), "validating", 32, len))
    assert out.getvalue().splitlines() == ["validating 16 of 32  0 img/s", "validating 32 of 32  0 img/s"]


def test_many_short_passes_are_no_silence_in_a_log_file(clock: list[float]) -> None:
    terminal = Terminal()
    out = shown(terminal, watched=False)
    for k in range(9):
        list(terminal.track(slowly([[0] * 8] * 2, clock, 5), f"pass {k}", 16, len))
    assert [line.split(" of ")[0] for line in out.getvalue().splitlines()] == [
        "pass 2 16",
        "pass 5 16",
        "pass 8 16",
    ]


def test_of_two_nested_passes_the_outer_one_is_shown() -> None:
    terminal = Terminal()
    out = shown(terminal, watched=True)
    for _ in terminal.track(range(2), "seeds", 2):
        terminal.doing = "fitting"
        assert len(list(terminal.passes(iter([[1], [2]]), 2))) == 2
    assert "seeds" in out.getvalue()
    assert "fitting" not in out.getvalue()
    list(terminal.passes(iter([[1], [2]]), 2))
    assert "fitting" in out.getvalue()


def test_a_pass_that_fails_leaves_room_for_the_next() -> None:
    terminal = Terminal()
    out = shown(terminal, watched=True)

    def broken() -> None:
        for _ in terminal.track(range(3), "first", 3):
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        broken()
    list(terminal.track(range(3), "second", 3))
    assert "second" in out.getvalue()


def test_the_last_line_of_training_says_why_it_ended() -> None:
    terminal = Terminal()
    out = shown(terminal, watched=False)
    seen = Validation(0.75, {"line": 0.75}, {}, 1.0)
    verdict = StopDecision(stop=True, reason="forgetting", best_epoch=1, why="vicinal AUROC fell")
    terminal.epoch(EpochRecord(3, 2.0, seen, verdict, 0, 0.0, 0.0), "fused")
    assert "stop: forgetting, epoch 1 is kept (vicinal AUROC fell)" in out.getvalue()


def test_the_gain_that_decides_has_its_interval_and_fits_a_narrow_log_on_one_line() -> None:
    terminal = Terminal()
    out = io.StringIO()
    terminal.console = Console(file=out, width=80, highlight=False)
    numbers = {"image_auroc": 0.9, "image_ap": 0.9, "pooled_image_auroc": 0.8, "fused_image_auroc": 0.9}
    described = PLAIN | {
        "test": {**numbers, "fused_image_auroc": 0.91},
        "frozen_test": numbers,
        "gain_intervals": {"image_auroc": [-0.0012, 0.0213]},
    }
    terminal.results(FinishedRun(Path("bottle-001"), RunSummary.model_validate(described), "sqlite:///x.db"))
    (line,) = (line for line in out.getvalue().splitlines() if "fused score" in line and "0.9100" in line)
    assert line.split()[-5:] == ["0.9100", "+0.0100", "-0.0012", "to", "+0.0213"]
