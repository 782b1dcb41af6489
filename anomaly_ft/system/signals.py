"""Handle SIGTERM and Ctrl-C: at once where nothing is lost by it, else after the present step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Asked:
    """Whether somebody has asked for an end."""

    def __init__(self) -> None:
        self.yes = False

    def __bool__(self) -> bool:
        return self.yes


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM inside the block, as Ctrl-C does anyway."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    with _handling({signal.SIGTERM: end}):
        yield


@contextmanager
def finishing_the_step(say: Callable[[str], None]) -> Iterator[Asked]:
    """Take the first signal inside the block as a request; raise KeyboardInterrupt on the second, and on
    leaving with the request not obeyed."""
    asked = Asked()

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if asked:
            raise KeyboardInterrupt
        asked.yes = True
        say(f"{signal.Signals(number).name}: finishing the step and writing a checkpoint; again to end at once")

    with _handling({signal.SIGINT: ask, signal.SIGTERM: ask}):
        yield asked
    if asked:
        raise KeyboardInterrupt


@contextmanager
def ending() -> Iterator[None]:
    """Ignore the first signal inside the block, where an end is written down, and raise KeyboardInterrupt on
    the second. torchrun sends one as soon as another process has died."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    with _handling({signal.SIGINT: hear, signal.SIGTERM: hear}):
        yield


@contextmanager
def _handling(handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
