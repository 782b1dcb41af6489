"""The sums behind a detector's Gaussians on disk: new images are added to them, and it is as if all had been
there from the beginning.

They are float64, and of each matrix the upper triangle is kept: 4 g d^2 bytes for a grid of g positions with d
channels, as much as the detector's own whitening in float32; one position for all takes 1 / g of that.

Sums are of one encoder: what another one makes of images lies elsewhere, and is never added to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomaly_ft.errors import EncoderError, RunError
from anomaly_ft.model.gaussian.statistics import Moments

NAME = "sums.safetensors"
FORMAT = 1
PARTS = ("shift", "first", "second", "third", "fourth")
SHOWN = 12  # characters of a digest in a message


@dataclass(frozen=True)
class PartSums:
    """The sums of a part's good images.

    Attributes:
        part: what the images are called in an error: a run, or a folder.
        encoder: that made their features, the SHA-256 of its weights, see `adapters.digest`; empty: not known,
            as in runs that are older than this note.
        sums: of each level, of the dense score and of the map.
    """

    part: str
    encoder: str
    sums: list[Moments]

    def __add__(self, more: "PartSums") -> "PartSums":
        """Add the sums of another part's images, to be fitted to both at once; exact up to rounding.

        Raises:
            EncoderError: another encoder made them.
        """
        self.refuse_another(more.part, more.encoder)
        added = [old + new.to(old.shift.device) for old, new in zip(self.sums, more.sums, strict=True)]
        return PartSums(self.part, self.encoder or more.encoder, added)

    def refuse_another(self, part: str, encoder: str) -> None:
        """Refuse a part whose features are not of the encoder that these sums are of.

        Args:
            part: what it is called.
            encoder: the SHA-256 of its encoder's weights.

        Raises:
            EncoderError: the two differ.
        """
        if self.encoder and encoder and self.encoder != encoder:
            raise EncoderError(
                f"{part}: its features would be of the encoder with sha256 {encoder[:SHOWN]}…, but the sums of "
                f"{self.part} are of the one with sha256 {self.encoder[:SHOWN]}…, and sums of two encoders "
                "make no detector; sum up both parts with one encoder, or keep a detector for each"
            )


def save_sums(folder: Path, sums: Sequence[Moments], encoder: str = "") -> None:
    """Write the sums of all Gaussians: of each level, of the dense score and of the map.

    Args:
        folder: of the run.
        sums: what is written.
        encoder: that they are of, see `PartSums`.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    tensors = {"format": torch.tensor(FORMAT)}
    if encoder:
        tensors["encoder"] = torch.tensor(list(bytes.fromhex(encoder)), dtype=torch.uint8)
    for i, moments in enumerate(sums):
        packed = replace(moments, second=_triangle(moments.second))
        tensors[f"count_{i}"] = torch.tensor(moments.count)
        tensors |= {f"{name}_{i}": getattr(packed, name).cpu().contiguous() for name in PARTS}
    try:
        save_file(tensors, folder / NAME)
    except SafetensorError as cause:  # its name for a full disk
        raise OSError(f"{folder}: {cause}") from cause


def load_sums(folder: Path) -> PartSums:
    """Read what `save_sums` wrote, on the CPU; the part is called like the folder.

    Raises:
        RunError: there are none, or they are damaged.
    """
    if not (folder / NAME).is_file():
        raise RunError(
            f"{folder} keeps no sums to add to: expert.gaussian.keep_sums was false, its statistics are those "
            "of the pretrained encoder, or an older version made it; train again"
        )
    try:
        tensors = load_file(folder / NAME)
        if int(tensors["format"]) != FORMAT:
            raise ValueError(f"format {int(tensors['format'])}, expected {FORMAT}")
        count = sum(name.startswith("count_") for name in tensors)
        encoder = bytes(tensors["encoder"].tolist()).hex() if "encoder" in tensors else ""
        return PartSums(folder.name, encoder, [_moments(tensors, i) for i in range(count)])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        raise RunError(f"{folder}: {NAME} is damaged: {cause}; train again") from cause


def _moments(tensors: dict[str, Tensor], i: int) -> Moments:
    shift, first, second, third, fourth = (tensors[f"{name}_{i}"] for name in PARTS)
    d = shift.shape[-1]
    whole = second.new_zeros(*shift.shape, d)
    rows, columns = torch.triu_indices(d, d)
    whole[..., rows, columns] = second
    whole[..., columns, rows] = second
    return Moments(int(tensors[f"count_{i}"]), shift, first, whole, third, fourth)


def _triangle(matrices: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(matrices.shape[-1], matrices.shape[-1], device=matrices.device)
    return matrices[..., rows, columns]
