"""Load an encoder: pretrained weights, or what a run left, with its levels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import timm

from anomaly_ft.data.pixels import Size
from anomaly_ft.model.encoder.encoder import Encoder, choose_levels
from anomaly_ft.model.encoder.weights import load_pretrained


def load_encoder(
    name: str,
    weights: str = "auto",
    *,
    levels: Sequence[str | int] | Literal["all"] = "all",
    image_size: Size = 224,
) -> Encoder:
    """Load the pretrained encoder `name` with its levels; see `load_pretrained` for `weights`."""
    model = load_pretrained(name, weights, image_size)
    return Encoder(model, choose_levels(model, levels), image_size)


def load_with_timm(folder: Path, levels: Sequence[str], image_size: Size) -> Encoder:
    """Load what `Encoder.save` wrote as someone loads it who has timm alone."""
    model = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
    return Encoder(model, levels, image_size)
