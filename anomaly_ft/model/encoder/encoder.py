"""A timm model seen as levels: the feature maps at which anomalies are measured.

The model itself stays whole and keeps its own keys, so that what was fine-tuned goes back to timm
unchanged; the levels are read off by forward hooks. Batch norms always run on their stored
statistics and dropout is off, in training too: fine-tuning on a few hundred normal images must
change weights, not statistics.
"""

import copy
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from anomaly_ft.data.pixels import Size, say_size, sides
from anomaly_ft.errors import EncoderError, did_you_mean
from anomaly_ft.model.encoder.adapters import Adapter, Backbone, add_adapters, settle, write_adapter
from anomaly_ft.model.encoder.early_activations import EarlyActivations
from anomaly_ft.model.encoder.fuse_batchnorm import Pair, foldable, folded
from anomaly_ft.model.encoder.level_maps import choose_levels, refuse_scrambled, stride_of, to_grid, way_out
from anomaly_ft.model.encoder.module_chain import find_chain, input_of, run_chain
from anomaly_ft.model.encoder.weights import load_pretrained, whole_source

# timm's words for it
CROP_MODES = {"stretch": "squash", "native": "squash", "center-crop": "center", "letterbox": "border"}


class Encoder(nn.Module):
    """A timm model and the names of its levels."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, levels: Sequence[str], image_size: Size) -> None:
        super().__init__()
        self.model = model
        self.levels = tuple(levels)
        self.image_size = image_size
        config = timm.data.resolve_model_data_config(model)
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self._forward: Callable[[Tensor], Tensor] = cast(Any, model).forward_features
        self._seen: dict[str, Tensor] = {}
        self._reading = True  # not in a backward pass that computes again, where hooks see modules again
        self.checkpointing = False  # see `run_chain`
        for level in self.levels:
            model.get_submodule(level).register_forward_hook(partial(self._keep, level))  # survives a copy
        self.train(False)
        self._pairs: list[Pair] = []  # what `folded` fuses
        self._chain: list[str] = []  # modules that run one after another, up to the last
        self.tail: list[str] = []  # of these the ones behind a frozen early part, if there is one
        self.early: tuple[str, ...] = ()  # levels in that part
        self.adapter: Adapter | None = None  # what was added to the weights of a backbone, see `adapters`
        shapes = self._probe()
        self.widths = tuple(shape[1] for shape in shapes)  # d_l
        longer = max(sides(image_size))
        self.strides = tuple(stride_of(longer, max(shape[-2:])) for shape in shapes)  # in pixels

    def forward(self, images: Tensor | EarlyActivations) -> list[Tensor]:
        """Compute feature maps `(n, d_l, h_l, w_l)`, one for each level, of RGB images `(n, 3, h, w)` in
        0..255, or of their early activations."""
        self._seen.clear()
        if self.checkpointing:
            self._reading = True
        if isinstance(images, EarlyActivations):
            run_chain(self.model, self.tail, images.activation, again=self.checkpointing)
            return self._read_off(dict(zip(self.early, images.levels, strict=True)))
        return self.feature_maps((images.float() - self.mean) / self.std)

    def feature_maps(self, normalised: Tensor) -> list[Tensor]:
        """Compute `forward` of images that already went through the encoder's mean and standard deviation."""
        self._seen.clear()
        if self.checkpointing and torch.is_grad_enabled():
            first = self.model.get_submodule(self._chain[0])
            x = input_of(first, lambda: self._forward(normalised))
            run_chain(self.model, self._chain, x, again=True)
        else:
            self._forward(normalised)
        return self._read_off({})

    def early_activations(self, images: Tensor) -> EarlyActivations:
        """Run the frozen early part on RGB images `(n, 3, h, w)` in 0..255; see `train_only`.

        Raises:
            EncoderError: no early part is frozen.
        """
        if not self.tail:
            raise EncoderError("encoder.train_blocks: no early part of the encoder is frozen")
        self._seen.clear()
        self._reading = True
        normalised = (images.float() - self.mean) / self.std
        x = input_of(self.model.get_submodule(self.tail[0]), lambda: self._forward(normalised))
        levels = [to_grid(self.model, self._seen[level]) for level in self.early]
        self._seen.clear()
        return EarlyActivations(x, levels)

    def _read_off(self, early: dict[str, Tensor]) -> list[Tensor]:
        """Collect the levels' maps in order; those before a frozen part's end are given."""
        unseen = [level for level in self.levels if level not in self._seen and level not in early]
        if unseen:
            raise EncoderError(
                f"expert.encoder.levels: features do not pass through {', '.join(unseen)}; "
                f"{way_out(self.model)}"
            )
        maps = [early[name] if name in early else to_grid(self.model, self._seen[name]) for name in self.levels]
        self._seen.clear()
        if self.checkpointing:
            self._reading = False
        return maps

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in evaluation mode; see the module's docstring."""
        del mode
        return super().train(False)

    def train_only(self, blocks: Sequence[str] | Literal["all"]) -> int:
        """Let only the parameters below the named modules train; returns how many numbers that is.

        Where these are later modules, what comes before them is the frozen early part that `early_activations`
        computes.

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
        self.split()
        return count

    def split(self) -> None:
        """Find where the frozen early part ends: before the first module of the chain that trains."""
        modules = [self.model.get_submodule(name) for name in self._chain]
        trains = [any(p.requires_grad for p in module.parameters()) for module in modules]
        inside = sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
        everywhere = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        first = trains.index(True) if True in trains and inside == everywhere else 0
        self.tail = self._chain[first:] if first else []
        self.early = tuple(level for level in self.levels if first and not self._behind(level))

    def _behind(self, level: str) -> bool:
        return any(level == name or level.startswith(f"{name}.") for name in self.tail)

    def adapt(self, blocks: Sequence[str] | Literal["all"], rank: int, *, name: str, weights: str) -> None:
        """Let adapters below the named modules train, and nothing else; see `add_adapters`.

        Args:
            blocks: as `train_only` has them.
            rank: of each adapter.
            name: of the backbone, as `load_pretrained` has it.
            weights: where it came from, as `load_pretrained` has it.
        """
        backbone = Backbone(name, whole_source(weights))
        self.adapter = add_adapters(self.model, self.levels, blocks, rank, backbone)
        self.split()

    def settle(self) -> None:
        """Add what adapters learnt to the weights, as whoever loads them does; nothing where there are none."""
        if self.adapter:
            self.adapter = Adapter(self.adapter.backbone, settle(self.model))

    def checkpoint_gradients(self) -> None:
        """Keep no activations for the backward pass but those between modules; compute the others again.

        Raises:
            EncoderError: the encoder is no chain of modules.
        """
        if len(self._chain) < 2:
            raise EncoderError(
                "expert.runtime.gradient_checkpointing: this encoder is no chain of modules; set it to false, "
                "and lower expert.runtime.micro_batch_size to save memory"
            )
        self.checkpointing = True
        self._pairs = []  # what is computed again has to find the same weights

    def folded(self) -> AbstractContextManager[None]:
        """Fuse batch norms into convolutions inside the block: the same features up to rounding, in less time
        from a few images on."""
        return folded(self.model, self._pairs)

    def compile_parts(self, backend: str = "inductor") -> None:
        """Let torch.compile translate each module of the chain when it is first run."""
        self._pairs = []  # it fuses by itself
        for name in self._chain:
            self.model.get_submodule(name).compile(backend=backend)

    def save(self, folder: Path, *, resize: str = "stretch") -> None:
        """Write `config.json` and `model.safetensors`, a folder that timm's `local-dir:` loads.

        `resize` is how images get that size; timm's transforms are told to do the same.
        """
        data_config = {
            "input_size": (3, *sides(self.image_size)),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": CROP_MODES[resize],
        }
        plain = copy.deepcopy(self.model).cpu().to(memory_format=torch.contiguous_format)
        settle(plain)
        try:
            save_for_hf(plain, str(folder), safe_serialization=True, data_config=data_config)
        except SafetensorError as cause:  # its name for a full disk
            raise OSError(f"{folder}: {cause}") from cause

    def keep(self, run: Path, *, resize: str) -> str:
        """Write the encoder below a run folder: whole in `encoder`, or, beside a backbone, what changed in
        `adapter`; returns timm's name for the model."""
        if self.adapter:
            shutil.rmtree(run / "encoder", ignore_errors=True)  # of an epoch, for a run that never ends
            write_adapter(run / "adapter", self.adapter)
        else:
            self.save(run / "encoder", resize=resize)
        return str(cast(Any, self.model).pretrained_cfg["architecture"])

    def _keep(self, level: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self._reading:
            self._seen[level] = output

    def parameter_groups(self, lr: float, *, layer_decay: float = 1.0) -> list[dict[str, Any]]:
        """Group trained parameters for an optimiser, each layer's learning rate `layer_decay` times that of
        the layer after it; the last layer's is `lr`. Layers are as timm counts them."""
        groups = param_groups_layer_decay(self.model, weight_decay_exclude_1d=False, layer_decay=layer_decay)
        last = max(group["lr_scale"] for group in groups)
        return [{"params": group["params"], "lr": lr * group["lr_scale"] / last} for group in groups]

    @torch.no_grad()
    def _probe(self) -> list[torch.Size]:
        shape = (1, 3, *sides(self.image_size))
        noise = 255 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
        try:
            maps, self._chain = find_chain(self.model, self.levels, lambda: self(noise))
            self._pairs = foldable(self.model, self.levels, lambda: self(noise))
        except (AssertionError, RuntimeError) as cause:
            raise EncoderError(
                f"data.image_size: the encoder takes no images of {say_size(self.image_size)} pixels: {cause}"
            ) from cause
        self._reading = False
        refuse_scrambled(self.model, self.levels, maps, (noise - self.mean) / self.std)
        self._reading = True
        return [level.shape for level in maps]


def pool(maps: Sequence[Tensor]) -> list[Tensor]:
    """Average over all positions: features `(n, d_l)` in float32 for each level."""
    return [level.mean((2, 3), dtype=torch.float32) for level in maps]


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
