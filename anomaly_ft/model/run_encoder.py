"""The encoder of a run folder, or one that runs share which are opened one after another.

A shared encoder is given to one run at a time. What an adapter adds to its weights is taken off again before
the next run gets it, so memory holds one backbone, and once more the weights that are adapted, however many
runs there are.
"""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.data.pixels import Size
from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.adapters import Adapter, adapted_weights, digest, merge, read_adapter
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.encoder.weights import LOCAL


class SharedEncoder:
    """The encoder that was loaded last, and what makes it the same as another. Whoever is given it has it until
    it is asked for again."""

    def __init__(self) -> None:
        self._last: tuple[Hashable, Encoder] | None = None
        self._bare: tuple[Encoder, Mapping[str, Tensor]] | None = None  # weights without the adapter that is on

    def give(self, key: Hashable, load: Callable[[], Encoder]) -> Encoder:
        """Give the encoder known by `key`, loaded unless it was the last one, on the CPU and without an
        adapter."""
        self.take_off()
        if self._last is None or self._last[0] != key:
            self._last = None  # not two at a time
            self._last = key, load()
        return self._last[1].cpu()

    def put_on(self, encoder: Encoder, adapter: Adapter) -> None:
        """Add an adapter to the weights of an encoder that was given, until the next one is asked for.

        Raises:
            AttributeError, KeyError, RuntimeError: an adapter of another model.
        """
        there = adapted_weights(encoder.model, adapter.factors)
        weights = {name: weight.detach().clone() for name, weight in there}
        self._bare = encoder, weights
        merge(encoder.model, adapter.factors)
        encoder.adapter = adapter

    @torch.no_grad()
    def take_off(self) -> None:
        """Give the encoder that wears an adapter its own weights back, bit for bit."""
        if self._bare is None:
            return
        encoder, weights = self._bare
        for name, weight in weights.items():
            encoder.model.get_submodule(name).get_parameter("weight").copy_(weight)
        encoder.adapter, self._bare = None, None


def encoder_key(folder: Path, description: Mapping[str, Any]) -> tuple[str, ...]:
    """Tell by its files which encoder a run folder needs: equal for runs that can share it.

    Raises:
        EncoderError: an adapter that is damaged, an encoder that cannot be read.
    """
    alike = str(description.get("levels")), str(description.get("image_size"))
    if (folder / "adapter").exists():
        backbone = read_adapter(folder / "adapter").backbone
        return backbone.name, backbone.sha256, *alike
    return str(description.get("encoder")), _digest_of_files(folder / "encoder"), *alike


def encoder_of(folder: Path, description: Mapping[str, Any], shared: SharedEncoder | None = None) -> Encoder:
    """Load the encoder of a run folder, as its description has it, unless `shared` is the same one.

    Raises:
        EncoderError: one that is missing or is not the one described, or whose backbone is not there.
        ValueError: an image size that none is.
    """
    if (folder / "adapter").exists():
        return _with_adapter(folder, description, shared or SharedEncoder())
    levels, image_size = description["levels"], _image_size(description["image_size"])

    def load() -> Encoder:
        beside = f"{LOCAL}{folder / 'encoder'}"
        return load_encoder(description["encoder"], beside, levels=levels, image_size=image_size)

    return shared.give(encoder_key(folder, description), load) if shared else load()


def _with_adapter(folder: Path, description: Mapping[str, Any], shared: SharedEncoder) -> Encoder:
    """Load the backbone of a run folder, unless `shared` is the same one, and put the adapter on.

    Raises:
        EncoderError: a backbone that is missing or is not the one described, an adapter that does not fit it.
        ValueError: an image size that none is.
    """
    levels, image_size = description["levels"], _image_size(description["image_size"])
    adapter, beside = read_adapter(folder / "adapter"), folder / "encoder"
    backbone = adapter.backbone
    source = f"{LOCAL}{beside}" if beside.exists() else backbone.weights
    which = f"{backbone.name}, weights from {backbone.weights}, sha256 {backbone.sha256}"
    needs = f"{folder} needs its backbone {which}"
    mend = f"bring it back, or put a timm folder of it at {beside}"

    def load() -> Encoder:
        encoder = load_encoder(backbone.name, source, levels=levels, image_size=image_size)
        if (there := digest(encoder.model)) != backbone.sha256:
            raise EncoderError(f"{needs}; the one found has sha256 {there}; {mend}")
        return encoder

    try:
        encoder = shared.give(encoder_key(folder, description), load)
    except EncoderError as cause:
        if str(cause).startswith(needs):
            raise
        raise EncoderError(f"{needs}; {mend} ({str(cause).splitlines()[0]})") from cause
    try:
        shared.put_on(encoder, adapter)
    except (AttributeError, KeyError, RuntimeError) as cause:
        raise EncoderError(
            f"{folder / 'adapter'} does not fit its backbone {backbone.name}: {cause}"
        ) from cause
    return encoder


def _image_size(stored: Any) -> Size:
    """Check the side of square images, or height and width of others."""
    both = stored if isinstance(stored, list) and len(stored) == 2 else [stored]
    if not all(type(side) is int and 32 <= side <= 2048 for side in both):
        raise ValueError(f"image_size is {stored!r:.40}, expected 32 to 2048, or height and width")
    return both[0] if len(both) == 1 else (both[0], both[1])


def _digest_of_files(folder: Path) -> str:
    """Hash the files of an encoder's folder (SHA-256), in the order of their names; without files that of
    nothing.

    Raises:
        EncoderError: one that cannot be read.
    """
    content = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.glob("*") if path.is_file()):
            with path.open("rb") as file:
                content.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    except OSError as cause:
        raise EncoderError(f"{folder}: the stored encoder cannot be read ({cause})") from cause
    return content.hexdigest()
