"""Commands run in processes of their own that start in no time, to be killed: forked from one that has imported
everything and done nothing."""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "mlflow.tracking",
        "mlflow.store.tracking.sqlalchemy_store",
        "anomaly_ft.run",
        "anomaly_ft.commands.train",
        "lives",
    ]
)
KILLED = -signal.SIGKILL


def start(arguments: Sequence[str], output: Path, death: dict[str, Any] | None = None) -> BaseProcess:
    """`anomaly-ft ARGUMENTS`, what it says in the file `output`. `death`, one of: {"step": n} for SIGKILL in
    the n-th step of the optimiser, {"write": n, "below": folder} at the n-th change below a folder, {"full": n,
    "below": folder} for a disk that is full from the n-th on, {"nan": n} for a loss that is no number."""
    process = CONTEXT.Process(target=_live, args=(list(arguments), str(output), death or {}))
    process.start()
    return process


def run(arguments: Sequence[str], output: Path, death: dict[str, Any] | None = None) -> int:
    """The exit code, or minus the signal."""
    process = start(arguments, output, death)
    process.join(300)
    assert process.exitcode is not None, f"it hangs: {output.read_text()}"
    return process.exitcode


def _live(arguments: list[str], output: str, death: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", "tracking:")
    with Path(output).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    if "step" in death:
        _die_in_step(death["step"])
    if "nan" in death:
        _lose_the_loss(death["nan"])
    changes = _watch_changes(death["below"], death) if "below" in death else []
    from anomaly_ft.cli import main

    try:
        main(arguments)
    finally:
        with Path(output).open("a") as file:
            file.write(f"changes {len(changes)}\n")


def _die_in_step(number: int) -> None:
    from torch.optim import Adam

    step, steps = Adam.step, iter(range(1, number + 1))

    def dies(self: Any, closure: Any = None) -> Any:
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, closure)

    Adam.step = dies  # type: ignore[method-assign]


def _lose_the_loss(number: int) -> None:
    from anomaly_ft.finetune.objective import InducedDistance

    forward, calls = InducedDistance.forward, iter(range(1, 10**6))

    def broken(self: Any, *arguments: Any) -> Any:
        loss = forward(self, *arguments)
        return loss * float("nan") if next(calls) == number else loss

    InducedDistance.forward = broken  # type: ignore[method-assign]


def _watch_changes(below: str, death: dict[str, Any]) -> list[str]:
    changes: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not is_write(event, arguments, below):
            return
        changes.append(event)
        if len(changes) == death.get("write"):
            os.kill(os.getpid(), signal.SIGKILL)
        if len(changes) >= death.get("full", 10**9) and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(hook)
    return changes


def is_write(event: str, arguments: tuple[Any, ...], below: str) -> bool:
    """Whether an audited event changes something below a folder, apart from databases."""
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
        return False
    path = ""
    with contextlib.suppress(TypeError):
        path = os.fsdecode(arguments[0])
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return False
    return path.startswith(below) and ".db" not in path
