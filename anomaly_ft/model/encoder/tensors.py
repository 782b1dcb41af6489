"""Read tensors from a weights file, and fit them to a model of another image size.

Nothing is unpickled beyond tensors: safetensors, or `torch.load(weights_only=True)`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors.

    Raises:
        EncoderError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # damaged files raise anything from OSError to UnpicklingError
        raise EncoderError(f"encoder.weights: cannot read tensors from {path} ({first_line(cause)})") from cause
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"encoder.weights: {path} is not a dictionary of tensors")
    return state


def fitted(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give a vision transformer's tensors with its position embedding resized to the grid of `model`, as timm
    does with those of the hub; tensors of other models as they are."""
    if not isinstance(model, VisionTransformer):
        return dict(tensors)
    return dict(checkpoint_filter_fn(dict(tensors), model))


def first_line(error: BaseException) -> str:
    """Give an error's first line, of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
