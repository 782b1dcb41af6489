"""What waits for a server when a run ends."""

from types import SimpleNamespace

import pytest

import anomaly_ft.tracking.retry_queue
from anomaly_ft.tracking.retry_queue import LAST, RetryQueue


def tried_at_the_end(seconds: float, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of a hundred waiting actions are tried when each fails after so many seconds."""
    clock, tried = [0.0], []
    fake = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr(anomaly_ft.tracking.retry_queue, "time", fake)
    queue = RetryQueue("nobody")

    def fails() -> None:
        tried.append(1)
        clock[0] += seconds
        raise ConnectionError("timed out")

    with pytest.warns(UserWarning, match="timed out"):
        queue.put(fails)
    for _ in range(99):
        queue.put(fails)
    before = len(tried)
    assert not queue.empty(lambda: True)
    return len(tried) - before


def test_a_server_that_hangs_does_not_hold_up_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried_at_the_end(20.0, monkeypatch) == LAST // 20 + 1


def test_everything_is_tried_once_more_where_it_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried_at_the_end(0.0, monkeypatch) == 100
