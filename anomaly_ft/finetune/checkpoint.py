"""Training states on disk: tensors in safetensors, the rest in JSON; nothing in them can run code.

A state is written aside, flushed to the disk and renamed, tensors first; the one before it is removed when
the new one has been read back. Tensors are named by a digest of their content: equal ones are stored
once, and a damaged one is noticed.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from anomaly_ft.errors import RunError
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.system.files import write_bytes

FORMAT = 2  # in 1, validations were of both parts of the fused score
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, SafetensorError)


class Checkpoints:
    """The last states of one run, as files `00000001.json` and `.safetensors` of a folder."""

    def __init__(self, folder: Path, minutes: float = 5.0) -> None:
        """Args:
        folder: where they go; made when there is something to keep.
        minutes: between states within an epoch; 0: one after each step.
        """
        self.folder = folder
        self._pause = 60 * minutes
        self._kept = time.monotonic()

    def keep(self, state: LoopState, due: bool) -> None:
        """Write the state if it is due, or if the last one was long ago."""
        if due or time.monotonic() - self._kept >= self._pause:
            self.write(state.state_dict())
            self._kept = time.monotonic()

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep a state; those before it go when this one can be read.

        Raises:
            OSError: it cannot be written; what was there before is still there.
        """
        before = self._numbers()
        name = f"{max(before, default=0) + 1:08d}"
        tensors: dict[str, Tensor] = {}
        document = json.dumps({"format": FORMAT, "state": encode(state, tensors)}, allow_nan=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / f"{name}.safetensors", save(tensors))
        write_bytes(self.folder / f"{name}.json", document.encode())
        try:
            self._read(name)
        except BROKEN as cause:
            raise OSError(f"{self.folder / name}.json cannot be read back: {cause}") from cause
        for number in before:
            (self.folder / f"{number:08d}.json").unlink(missing_ok=True)
            (self.folder / f"{number:08d}.safetensors").unlink(missing_ok=True)

    def restore(self, state: LoopState) -> None:
        """Set a state back to the newest one that can be read; where none was kept it stays as it is.

        Raises:
            RunError: there are states and none of them can be read, or it is the state of something else.
        """
        stored = self.read()
        if stored is None:
            return
        try:
            state.load_state_dict(stored)
        except Exception as cause:  # what was stored may be anything
            raise RunError(
                f"{self.folder}: the checkpoint does not fit this recipe ({type(cause).__name__}: {cause}); "
                "start a new run without --resume"
            ) from cause

    def read(self) -> dict[str, Any] | None:
        """Read the newest state that can be read; None where none was kept.

        Raises:
            RunError: there are states and none of them can be read.
        """
        trouble = ""
        for number in sorted(self._numbers(), reverse=True):
            try:
                return self._read(f"{number:08d}")
            except BROKEN as cause:
                trouble = trouble or f"{type(cause).__name__}: {cause}"
        if trouble:
            raise RunError(
                f"{self.folder}: no checkpoint in it can be read ({trouble}); start a new run without --resume"
            )
        return None

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdecimal()]

    def _read(self, name: str) -> dict[str, Any]:
        document = json.loads((self.folder / f"{name}.json").read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}, this version reads format {FORMAT}")
        tensors = load((self.folder / f"{name}.safetensors").read_bytes())
        for key, tensor in tensors.items():
            if digest(tensor) != key:
                raise ValueError(f"tensor {key} is not what was stored")
        state: dict[str, Any] = decode(document["state"], tensors)
        return state


def encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Encode a tree of dictionaries, lists, tuples, tensors, arrays, numbers and texts as JSON; its tensors
    are added to `tensors`, contiguous and on the CPU, under their digests."""
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        tensors[key := digest(tensor)] = tensor
        return {"tensor" if isinstance(value, Tensor) else "array": key}
    if isinstance(value, Mapping):
        return {"items": [[encode(k, tensors), encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [encode(item, tensors) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a checkpoint")


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Decode what `encode` returned."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "items":
        return {decode(k, tensors): decode(v, tensors) for k, v in content}
    if kind == "tuple":
        return tuple(decode(item, tensors) for item in content)
    if kind == "float":
        return float(content)
    tensor = tensors[content].clone()  # what was stored once may be many, each to change by itself
    return {"tensor": tensor, "array": tensor.numpy()}[kind]


def digest(tensor: Tensor) -> str:
    """Hash a contiguous CPU tensor's type, shape and content to a name."""
    key = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} ".encode(), digest_size=16)
    if tensor.numel():
        key.update(tensor.flatten().view(torch.uint8).numpy().data)
    return key.hexdigest()
