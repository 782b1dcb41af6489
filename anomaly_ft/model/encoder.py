"""A timm model seen as levels: the feature maps at which anomalies are measured.

The model itself stays whole and keeps its own keys, so that what was fine-tuned goes back to timm
unchanged; the levels are read off by forward hooks. Batch norms always run on their stored
statistics and dropout is off, in training too: fine-tuning on a few hundred normal images must
change weights, not statistics.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError, did_you_mean
from anomaly_ft.model.weights import load_pretrained


class Encoder(nn.Module):
    """A timm model and the names of its levels."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, levels: Sequence[str], image_size: int) -> None:
        super().__init__()
        self.model = model
        self.levels = tuple(levels)
        self.image_size = image_size
        config = timm.data.resolve_model_data_config(model)
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self._forward: Callable[[Tensor], Tensor] = cast(Any, model).forward_features
        self._seen: dict[str, Tensor] = {}
        for level in self.levels:
            model.get_submodule(level).register_forward_hook(partial(self._keep, level))  # survives a copy
        self.train(False)
        shapes = self._probe()
        self.widths = tuple(shape[1] for shape in shapes)  # d_l
        self.strides = tuple(image_size // shape[-1] for shape in shapes)  # pixels from position to position

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps `(n, d_l, h_l, w_l)`, one for each level, of RGB images `(n, 3, h, w)` in 0..255."""
        self._seen.clear()
        self._forward((images.float() - self.mean) / self.std)
        unseen = [level for level in self.levels if level not in self._seen]
        if unseen:
            raise EncoderError(f"encoder.levels: features do not pass through {', '.join(unseen)}")
        maps = [self._to_grid(self._seen[level]) for level in self.levels]
        self._seen.clear()
        return maps

    def train(self, mode: bool = True) -> "Encoder":
        """Always evaluation mode; see the module's docstring."""
        del mode
        return super().train(False)

    def train_only(self, blocks: Sequence[str] | Literal["all"]) -> int:
        """Let only the parameters below the named modules train; returns how many numbers that is.

        Raises:
            EncoderError: a name that is no module of the model, or modules without parameters.
        """
        names = [name for name, _ in self.model.named_modules() if name]
        for block in () if blocks == "all" else blocks:
            if block not in names:
                raise EncoderError(
                    f"encoder.train_blocks: no module {block!r}{did_you_mean(block, names)}; "
                    f"top modules are {', '.join(n for n in names if n.count('.') < 1)}"
                )
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad = blocks == "all" or any(name.startswith(f"{b}.") for b in blocks)
        count = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if not count:
            raise EncoderError(f"encoder.train_blocks: nothing to train in {', '.join(blocks) or 'no blocks'}")
        return count

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, a folder that timm's `local-dir:` loads."""
        size = (3, self.image_size, self.image_size)
        plain = copy.deepcopy(self.model).cpu().to(memory_format=torch.contiguous_format)
        save_for_hf(
            plain, str(folder), safe_serialization=True, data_config={"input_size": size, "crop_pct": 1.0}
        )

    def _keep(self, level: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._seen[level] = output

    def parameter_groups(self, lr: float, *, layer_decay: float = 1.0) -> list[dict[str, Any]]:
        """Trained parameters for an optimiser, each layer's learning rate `layer_decay` times that of the
        layer after it; the last layer's is `lr`. Layers are as timm counts them."""
        groups = param_groups_layer_decay(self.model, weight_decay_exclude_1d=False, layer_decay=layer_decay)
        last = max(group["lr_scale"] for group in groups)
        return [{"params": group["params"], "lr": lr * group["lr_scale"] / last} for group in groups]

    def _to_grid(self, output: Tensor) -> Tensor:
        """A level's output as `(n, d, h, w)`: patch tokens become a grid, channels come second."""
        if output.dim() == 4:
            last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            return output.permute(0, 3, 1, 2) if last else output
        prefix: int = getattr(self.model, "num_prefix_tokens", 0)
        tokens = output[:, prefix:].mT  # (n, d, positions)
        side = math.isqrt(tokens.shape[2])
        if side**2 != tokens.shape[2]:
            raise EncoderError(
                f"encoder.levels: {tokens.shape[2]} positions make no square grid; a level gives patch "
                f"tokens after {prefix} prefix tokens, or a map with channels"
            )
        return tokens.reshape(*tokens.shape[:2], side, -1)

    @torch.no_grad()
    def _probe(self) -> list[torch.Size]:
        blank = torch.zeros(1, 3, self.image_size, self.image_size)
        try:
            return [level.shape for level in self(blank)]
        except (AssertionError, RuntimeError) as cause:
            raise EncoderError(
                f"data.image_size: the encoder takes no images of {self.image_size} pixels: {cause}"
            ) from cause


def pool(maps: Sequence[Tensor]) -> list[Tensor]:
    """Global average over positions: features `(n, d_l)` in float32 for each level."""
    return [level.mean((2, 3), dtype=torch.float32) for level in maps]


def known_levels(model: nn.Module) -> list[str]:
    """Names of all levels: each stage timm knows, plus stem and head convolution where there are any.

    For an EfficientNet these are the nine levels of Rippel et al. (IEEE TIM 70, 2021): stem, seven
    stages, head convolution, each after its normalisation and activation.
    """
    children = dict(model.named_children())
    blocks = children.get("blocks")
    if "conv_stem" in children and isinstance(blocks, nn.Sequential):
        names = ["bn1", *(f"blocks.{i}" for i in range(len(blocks)))]
        return [*names, "bn2"] if "bn2" in children else names
    info = getattr(model, "feature_info", None)
    if not info:
        raise EncoderError(
            f"encoder.levels: timm does not say which levels {type(model).__name__} has; name modules yourself"
        )
    return [stage["module"] for stage in (info if isinstance(info, list) else info.info)]


def choose_levels(model: nn.Module, levels: Sequence[str | int] | Literal["all"]) -> list[str]:
    """Module names of the wanted levels, given as names or as indices into `known_levels`.

    Raises:
        EncoderError: an index out of range, a name that is no module, none at all, or one twice.
    """
    if levels == "all":
        return known_levels(model)
    modules = [name for name, _ in model.named_modules() if name]
    chosen = []
    for level in levels:
        known = known_levels(model) if isinstance(level, int) else modules
        if isinstance(level, int) and not -len(known) <= level < len(known):
            raise EncoderError(f"encoder.levels: no level {level}; there are {len(known)}: {', '.join(known)}")
        name = known[level] if isinstance(level, int) else level
        if name not in known:
            raise EncoderError(
                f"encoder.levels: no module {name!r}{did_you_mean(name, known)}; "
                f"levels are {', '.join(known_levels(model))}"
            )
        chosen.append(name)
    if not chosen or len(set(chosen)) != len(chosen):
        raise EncoderError(f"encoder.levels: expected one or more different levels, got {list(levels)}")
    return chosen


def load_encoder(
    name: str,
    weights: str = "auto",
    *,
    levels: Sequence[str | int] | Literal["all"] = "all",
    image_size: int = 224,
) -> Encoder:
    """The pretrained encoder `name` with its levels; see `load_pretrained` for `weights`."""
    model = load_pretrained(name, weights, image_size)
    return Encoder(model, choose_levels(model, levels), image_size)
