"""Commands run in processes of their own that start in no time, to be killed: forked from one that has imported
everything and done nothing."""

import contextlib
import errno
import multiprocessing
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preloaded", "lives"])
KILLED = -signal.SIGKILL


def start(arguments: Sequence[str], output: Path, death: dict[str, Any] | None = None) -> BaseProcess:
    """`anomaly-ft ARGUMENTS`, what it says in the file `output`. `death`, one of: {"step": n} for SIGKILL
    in the n-th step of the optimiser, {"varied": n} while the n-th varied image is made, {"write": site,
    "below": folder} at a change below a folder, {"full": site, "below": folder} for a disk that is full
    from there on, {"nan": n} for a loss that is no number. A site is the number of a change, one of the
    `sites` of another life, or such a one and how many times it was seen before and now."""
    arguments = (list(arguments), str(output), death or {}, dict(os.environ))
    process = CONTEXT.Process(target=_live, args=arguments)
    with pytest.MonkeyPatch.context() as patch:  # the server does not get the path of this process
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        forkserver.ensure_running()
    process.start()
    return process


def run(arguments: Sequence[str], output: Path, death: dict[str, Any] | None = None) -> int:
    """The exit code, or minus the signal."""
    process = start(arguments, output, death)
    process.join(900)
    assert process.exitcode is not None, f"it hangs: {output.read_text()}"
    return process.exitcode


def changes(output: Path) -> list[str]:
    """The changes below the folder that the last life made, each as its site."""
    said = output.read_text().rpartition("\nbegun\n")[2]
    return [line.removeprefix("change ") for line in said.splitlines() if line.startswith("change ")]


def sites(output: Path) -> list[str]:
    """Where the last life changed something: what was done to which file, numbers in names apart."""
    return list(dict.fromkeys(changes(output)))


def _live(arguments: list[str], output: str, death: dict[str, Any], environment: dict[str, str]) -> None:
    os.environ.clear()  # that of the server which was forked
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", "tracking:")
    with Path(output).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    if "step" in death:
        _die_in_step(death["step"])
    if "varied" in death:
        _die_while_varying(death["varied"])
    if "nan" in death:
        _lose_the_loss(death["nan"])
    seen = _watch_changes(death["below"], death) if "below" in death else []
    sys.stdout.write("\nbegun\n")
    sys.stdout.flush()
    from anomaly_ft.cli.main import main

    try:
        main(arguments)
    finally:
        with Path(output).open("a") as file:
            file.writelines(f"change {site}\n" for site in seen)


def _die_in_step(number: int) -> None:
    from torch.optim import Adam

    step, steps = Adam.step, iter(range(1, number + 1))

    def dies(self: Any, closure: Any = None) -> Any:
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, closure)

    Adam.step = dies  # type: ignore[method-assign]


def _die_while_varying(number: int) -> None:
    from anomaly_ft.data.variation import Variation

    vary, images = Variation.image, iter(range(1, 10**9))

    def dies(self: Any, *arguments: Any) -> Any:
        if next(images) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return vary(self, *arguments)

    Variation.image = dies  # type: ignore[method-assign]


def _lose_the_loss(number: int) -> None:
    from anomaly_ft.finetune.methods.gaussian_objective import InducedDistance

    forward, calls = InducedDistance.forward, iter(range(1, 10**6))

    def broken(self: Any, *arguments: Any) -> Any:
        loss = forward(self, *arguments)
        return loss * float("nan") if next(calls) == number else loss

    InducedDistance.forward = broken  # type: ignore[method-assign]


def _watch_changes(below: str, death: dict[str, Any]) -> list[str]:
    seen: list[str] = []
    full = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal full
        if not is_write(event, arguments, below):
            return
        seen.append(site := site_of(event, os.fsdecode(arguments[0]).removeprefix(below)))
        here = (site, len(seen), (site, seen.count(site)))
        if death.get("write") in here:
            os.kill(os.getpid(), signal.SIGKILL)
        full = full or death.get("full") in here
        if full and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(hook)
    return seen


def site_of(event: str, name: str) -> str:
    """A change to a file; the many files written alike, or aside under a random name, count as one."""
    name = re.sub(r"/(code|images)/.*", r"/\1/...", name)
    name = re.sub(r"(?<=/\.artifact\.uploading\.)[^/]+|(?<=/tmp)[a-z0-9_]{8}\b", "#", name)
    return f"{event} {re.sub(r'm-[0-9a-f]{32}|[0-9a-f]{32}|[0-9]+', '#', name)}"


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
