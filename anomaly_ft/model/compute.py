"""Run the encoder: device, precision, memory format, batches.

Lightning Fabric does the placing, and the autocasting of training. Every other pass is float32: statistics,
thresholds and scores have to be those that an export gives, which computes in float32.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, distributed

from anomaly_ft.data.lazy_images import Rows
from anomaly_ft.errors import DeviceError
from anomaly_ft.model.encoder.early_activations import EarlyActivations
from anomaly_ft.model.encoder.encoder import Encoder

P = TypeVar("P", NDArray[np.uint8], EarlyActivations)
PATIENCE = timedelta(minutes=10)  # with another process that does not answer
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


@dataclass(frozen=True)
class Compute:
    """Everything that decides how a batch is computed, and nothing that decides what."""

    fabric: Fabric
    batch_size: int = 32
    channels_last: bool = True
    watch: Callable[[Iterator[Tensor], int], Iterator[Tensor]] = lambda batches, total: batches  # for progress

    def shard(self, pixels: P) -> P:
        """Select this process's shard of images that all processes share; everything where there is one.

        Raises:
            DeviceError: fewer images than processes.
        """
        ranks = self.fabric.world_size
        if ranks == 1:
            return pixels
        if len(pixels) < ranks:
            raise DeviceError(f"{len(pixels)} images are too few for {ranks} processes; start fewer")
        if isinstance(pixels, Rows):  # still not fetched, or varied, before a batch is asked for
            return cast(P, pixels.rows(list(range(self.fabric.global_rank, len(pixels), ranks))))
        return pixels[self.fabric.global_rank :: ranks]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.fabric.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gather all processes' results for their shards `(k, ...)`, in the order of the whole `(n, ...)`."""
        ranks = self.fabric.world_size
        if ranks == 1:
            return values
        parts: list[Any] = [None] * ranks
        distributed.all_gather_object(parts, values)
        whole = np.empty((sum(map(len, parts)), *values.shape[1:]))
        for rank, part in enumerate(parts):
            whole[rank::ranks] = part
        return whole

    def prepare(self, encoder: Encoder) -> Encoder:
        """Move the encoder to the device, in the memory format asked for."""
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return encoder.to(self.fabric.device).to(memory_format=memory_format)

    @overload
    def batch(self, pixels: NDArray[np.uint8]) -> Tensor: ...
    @overload
    def batch(self, pixels: EarlyActivations) -> EarlyActivations: ...
    def batch(self, pixels: NDArray[np.uint8] | EarlyActivations) -> Tensor | EarlyActivations:
        """Move uint8 `(n, h, w, 3)` to the device as `(n, 3, h, w)`; channels last as it lies in memory.
        Early activations go there as they are."""
        if isinstance(pixels, EarlyActivations):
            return pixels.to(self.fabric.device)
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.fabric.device).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()

    def batches(self, pixels: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Batch uint8 images `(n, h, w, 3)` on the device, as `batch` gives them."""
        starts = range(0, len(pixels), self.batch_size)
        batches = (self.batch(pixels[start : start + self.batch_size]) for start in starts)
        return self.watch(batches, len(pixels))


def make_compute(
    *, device: str = "auto", precision: str = "auto", batch_size: int = 32, channels_last: bool = True
) -> Compute:
    """Set up Fabric for one process.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of training: `fp32`, `bf16`, `fp16`, or `auto`: bf16 where the device computes it fast.
        batch_size: images at a time wherever nothing is trained.
        channels_last: memory format of convolutions.

    Raises:
        DeviceError: a device that this machine does not have, or a precision that the device has not.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        raise DeviceError(f"runtime.device: this machine has no {device} device; use auto or cpu")
    if precision == "fp16" and (device == "cpu" or not any(present.values())):
        raise DeviceError("runtime.precision: processors do not train in fp16; use auto, bf16 or fp32")
    fabric = _launch(device, PRECISIONS[resolve_precision(device, precision)])
    # the objective that fabric.setup wraps trains in the precision all the same; only passes that ask are meant
    fabric.autocast = nullcontext  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch 2.9 has a newer name for it, others have not
        torch.backends.cudnn.allow_tf32 = False  # its convolutions have 10 bits of mantissa; exports have 23
    return Compute(fabric, batch_size, channels_last)


def _launch(device: str, precision: Literal["32-true", "bf16-mixed", "16-mixed"]) -> Fabric:
    """Launch Fabric for this process alone, or, under torchrun, for all of them."""
    ranks, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if "TORCHELASTIC_RUN_ID" not in os.environ or ranks == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)
    strategy = DDPStrategy(
        timeout=PATIENCE,
        broadcast_buffers=False,  # the Gaussians are the same everywhere already
        find_unused_parameters=True,  # those behind the last level
    )
    fabric = Fabric(
        accelerator=device, devices=local, num_nodes=ranks // local, strategy=strategy, precision=precision
    )
    fabric.launch()
    return fabric


@contextmanager
def explain_memory() -> Iterator[None]:
    """Word an error of memory that ran out: which settings need less of it.

    Raises:
        DeviceError: in place of that error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        about_memory = any(words in str(error) for words in ("allocate memory", "out of memory"))
        if not about_memory and not isinstance(error, MemoryError):
            raise
        raise DeviceError(
            f"memory ran out ({(str(error).splitlines() or ['no more is known'])[0]}); what needs less of it:\n"
            "  expert.runtime.micro_batch_size: 4            a training step in parts, with the same result\n"
            "  expert.runtime.gradient_checkpointing: true   compute activations again: a third slower\n"
            "  expert.runtime.batch_size: 8                  for all passes that train nothing\n"
            "and, with another result, a smaller data.image_size"
        ) from error


def resolve_precision(device: str, precision: str) -> str:
    """Resolve `auto` to the precision of this machine."""
    if precision != "auto":
        return precision
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    on_cpu = device == "cpu" or not torch.backends.mps.is_available()
    return "bf16" if on_cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
