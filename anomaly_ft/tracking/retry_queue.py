"""A retry queue for sending to a server that may be down: in order, tried again after a while, cheaply."""

import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from anomaly_ft.system.addresses import without_password

PAUSE = 30.0  # seconds before a receiver that failed is tried again
LAST = 60.0  # seconds that what fails may cost when a run ends


class NotSent(UserWarning):
    """A server that did not take what it was sent; training goes on."""


class RetryQueue:
    """Actions that have not succeeded yet. A failure is reported once and never raised."""

    def __init__(self, receiver: str) -> None:
        self._receiver = receiver
        self._waiting: deque[Callable[[], Any]] = deque()
        self._again_at = 0.0
        self._said = False

    def put(self, action: Callable[[], Any]) -> None:
        """Do it, after what has to be done before; what fails waits for a while and is tried again."""
        self._waiting.append(action)
        while self._waiting and time.monotonic() >= self._again_at:
            began = time.monotonic()
            try:
                self._waiting[0]()
            except Exception as cause:  # whatever the server, the database or the network raises
                took = time.monotonic() - began
                self._again_at = time.monotonic() + max(PAUSE, 10 * took)  # a dead server costs a tenth at most
                self._say(cause)
            else:
                self._waiting.popleft()

    def empty(self, begun: Callable[[], bool]) -> bool:
        """Try everything that waits for the last time; whether all of it succeeded. Nothing more is tried after
        a failure unless it has `begun`, nor when failures have taken `LAST` seconds: a server that hangs lets
        each of many actions wait in vain."""
        failed, lost = 0, 0.0
        for action in self._waiting:
            if failed and (not begun() or lost > LAST):
                break
            began = time.monotonic()
            try:
                action()
            except Exception as cause:
                failed += 1
                lost += time.monotonic() - began
                self._say(cause)
        self._waiting.clear()
        return not failed

    def _say(self, cause: Exception) -> None:
        if not self._said:
            self._said = True
            warnings.warn(
                without_password(f"tracking: {self._receiver} failed ({type(cause).__name__}: {cause}); ")
                + "training goes on, the run folder will be complete. "
                "It is tried again; anomaly-ft sync RUN uploads what is missing",
                NotSent,
                stacklevel=3,
            )
