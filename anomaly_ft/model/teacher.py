"""A second, frozen encoder whose features are a lesson for the one that trains: loading it, its features, what
it is. How it teaches is said in `finetune.teaching`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from anomaly_ft.data.pixels import say_size, sides
from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.adapters import Backbone, digest
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.encoder.weights import nearest_size, resolve_source
from anomaly_ft.model.gaussian.levels import choose_dense_levels, kept_channels
from anomaly_ft.model.maps import on_grid

# how errors of an encoder name settings, and what these are called of a teacher
NAMED = {
    "expert.encoder.levels": "expert.objective.teacher_levels",
    "encoder.weights": "expert.objective.teacher_weights",
    "encoder.name": "objective.teacher",
}


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder that teaches.

    Attributes:
        encoder: gives its features; never changes.
        levels: positions of those that teach.
        origin: where it can be had again.
    """

    encoder: Encoder
    levels: Sequence[int]
    origin: Backbone

    def __str__(self) -> str:
        origin, encoder = self.origin, self.encoder
        return (
            f"{origin.name}, weights from {origin.weights} (sha256 {origin.sha256[:12]}…), levels "
            f"{', '.join(encoder.levels[i] for i in self.levels)}, {say_size(encoder.image_size)} pixels"
        )

    @torch.no_grad()
    def features(self, images: Tensor, grid: tuple[int, int], dimensions: int) -> Tensor:
        """Compute its features of RGB images `(n, 3, h, w)` in 0..255 on the rows and columns of a grid, `(n,
        positions, d)`, float32, d at most `dimensions`; images are resized to those it takes."""
        size = sides(self.encoder.image_size)
        if tuple(images.shape[-2:]) != size:
            images = F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
        with self.encoder.folded():
            maps = self.encoder(images)
        kept = kept_channels(self.encoder, self.levels, dimensions)
        return on_grid([maps[i] for i in self.levels], grid, kept.to(images.device))

    def plain(self) -> dict[str, Any]:
        """Tell in plain values which encoder it is: `name`, `weights`, `sha256` and names of its `levels`."""
        return {**asdict(self.origin), "levels": tuple(self.encoder.levels[i] for i in self.levels)}


def load_teacher(
    name: str,
    weights: str,
    student: Encoder,
    *,
    levels: Sequence[str | int] | Literal["auto"] = "auto",
) -> Teacher | None:
    """Load a teacher for images of the student's size, or of the nearest that the teacher takes; None without a
    name.

    Args:
        name: as `load_pretrained` has it; empty where none teaches.
        weights: as `load_pretrained` has it.
        student: the encoder that trains.
        levels: that teach; `auto`: those of the dense score that the teacher itself would have.

    Raises:
        EncoderError: a model that is not known, weights or levels that are missing or do not fit, a size that
            it does not take, or the student itself.
    """
    if not name:
        return None
    size, source = nearest_size(name, student.image_size), resolve_source(name, weights)
    try:
        encoder = load_encoder(name, source, levels="all" if levels == "auto" else levels, image_size=size)
    except EncoderError as cause:
        raise EncoderError(_of_teacher(str(cause))) from cause
    sha256 = digest(encoder.model)
    if sha256 == digest(student.model):
        raise EncoderError(
            f"objective.teacher: {name} with these weights is the encoder that trains; name another, or hold "
            "features where they are with expert.objective.distillation"
        )
    encoder.requires_grad_(requires_grad=False)
    chosen = choose_dense_levels(encoder, "auto") if levels == "auto" else range(len(encoder.levels))
    return Teacher(encoder, list(chosen), Backbone(name, source, sha256))


def _of_teacher(message: str) -> str:
    """Word an error about an encoder as one about a teacher; one of the image size says whose."""
    for theirs, ours in NAMED.items():
        message = message.replace(theirs, ours)
    return message if message.startswith(tuple(NAMED.values())) else f"objective.teacher: {message}"
