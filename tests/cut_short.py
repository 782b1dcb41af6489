"""Runs that are interrupted on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from anomaly_ft.finetune.checkpoint import Checkpoints


@contextmanager
def cut_short(checkpoints: int) -> Iterator[None]:
    """Interrupt what trains inside the block once so many checkpoints are written."""
    write, written = Checkpoints.write, []

    def write_some(self: Checkpoints, state: object) -> None:
        write(self, state)  # type: ignore[arg-type]
        written.append(state)
        if len(written) == checkpoints:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "write", write_some)
        yield
