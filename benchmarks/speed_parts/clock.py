"""Clocks, contestants that take turns, and tables."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Self

# processor seconds are fair beside other work as long as a single thread computes
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def in_turns(
    contestants: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each contestant in each of `repeats` rounds, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(repeats + 1):
        for name, work in contestants.items():
            started = clock()
            work()
            if round_:
                seconds[name].append(clock() - started)
    return seconds


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, tuple[float, float, float]]:
    """Speed of each against the base of the same round: median, lowest and highest; 1 = as fast."""
    found = {}
    for name, values in seconds.items():
        of_rounds = [first / own for first, own in zip(seconds[base], values, strict=True)]
        found[name] = (statistics.median(of_rounds), min(of_rounds), max(of_rounds))
    return found


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table as Markdown has it."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")


def show_ratios(title: str, seconds: dict[str, list[float]], base: str, images: int) -> None:
    found = ratios(seconds, base)
    rows = [
        (name, f"{1000 * statistics.median(values) / images:.2f}", f"{m:.3f}", f"{low:.3f} to {high:.3f}")
        for (name, values), (m, low, high) in zip(seconds.items(), found.values(), strict=True)
    ]
    show(title, ("", "ms an image", f"speed against {base}", "range"), rows)


class Account:
    """Seconds spent in functions that are watched, less what they spent in others that are watched."""

    def __init__(self, clock: Callable[[], float], rest: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._open, self._since = clock, [rest], clock()
        self._replaced = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Put the functions that were watched back in their places."""
        self._replaced.close()

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def timed(self, work: Callable[..., Any], name: str | Callable[[], str]) -> Callable[..., Any]:
        @wraps(work)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.within(name if isinstance(name, str) else name()):
                return work(*args, **kwargs)

        return watched

    def watch(self, owner: Any, names: str, account: str | Callable[[], str]) -> None:
        """Put watched functions in the place of those of a module or class, named in one text."""
        for name in names.split():
            original = getattr(owner, name)
            self._replaced.callback(setattr, owner, name, original)
            setattr(owner, name, self.timed(original, account))

    def close(self) -> dict[str, float]:
        self._turn()
        return dict(self.seconds)

    def _turn(self) -> None:
        now = self._clock()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now
