"""The sections of a recipe that choose the kind of model, and that say how a filter is made and trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from anomaly_ft.recipe.section import Section, dotted_key, is_there

Shape = Literal["curve", "ellipse", "islands", "line"]
Filling = Literal["elastic", "patch", "colour", "noise"]
# Pseudo-anomalies of validation that are the same thing as a shape or a filling of training's corruptions
SAME_AS_CORRUPTION: dict[str, tuple[str, ...]] = {
    "mixup": ("patch",),
    "cutmix": ("patch",),
    "cutpaste": ("patch",),
    "scar": ("patch",),
    "blend": ("patch",),
    "cutout": ("colour",),
    "confetti": ("colour",),
    "warp": ("elastic",),
    "line": ("line",),
}
# Settings, by section, that a filter has no use for and that change what training is
OF_GAUSSIAN = {
    "data": ("known_defects",),
    "encoder": ("train_blocks", "adapt"),
    "objective": ("floor", "l2_sp", "distillation", "teacher"),
    "optimizer": ("layer_decay",),
    "schedule": ("average", "interpolate"),
    "runtime": ("gradient_checkpointing",),
}
PIXELS = "pixels"  # as an encoder's name


class Model(Section):
    """The kind of model that finds anomalies."""

    kind: Literal["gaussian", "filter"] = "gaussian"
    """`gaussian`: fine-tunes the encoder towards Gaussians of its features; `filter`: leaves it as it is and
    trains a net to undo corruptions, of its features or, with `encoder.name: pixels`, of the images."""


class FilterSection(Section):
    """How a filter is made and what it learns to undo; positions, shrinkage and variance floor of its
    statistics are those of `gaussian`."""

    textures: str = ""
    """A folder of images whose texture may be a defect on your parts; corruptions are filled with it too."""
    fillings: tuple[Filling, ...] = Field(default=("elastic", "patch", "colour", "noise"), min_length=1)
    """What corruptions show: the same place deformed, another good image, one colour, smooth noise."""
    shapes: tuple[Shape, ...] = Field(default=("curve", "ellipse", "islands"), min_length=1)
    """Where they show it."""
    clean_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of training images that are not corrupted."""
    noise: float = Field(default=5.0, ge=0, le=50)
    """Noise that is kept in what is restored, with a standard deviation of at most so many of 255 values."""
    clean_weight: float = Field(default=0.5, ge=0, lt=1)
    """What the error at places that were not corrupted counts in the loss; at corrupted ones the rest."""
    levels: Literal["auto"] | tuple[str | int, ...] = "auto"
    """Levels that the filter works on; `auto`: the last at stride 8, all at 16 and the first at 32."""
    grid: Literal["auto"] | Annotated[int, Field(ge=2, le=2048)] = "auto"
    """Positions along each side; `auto`: as many as the finest of the levels has."""
    dimensions: int = Field(default=128, ge=1, le=1024)
    """Channels at most at each position; of more a random choice is kept. Memory grows with the square."""
    width: int = Field(default=128, ge=16, le=1024)
    """Channels in the middle of the net; half as many at twice the size, and so on."""
    reach: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Largest dilation of the parallel convolutions; 1: plain convolutions; `auto`: what fits, at most 16."""
    skips: bool = True
    """Whether encoder and decoder of the net are mixed at every size."""
    smoothing: float = Field(default=1.0, ge=0, le=10)
    """Standard deviation, in positions, with which the map is smoothed."""
    top: float = Field(default=0.01, gt=0, le=1)
    """Share of the map's positions whose mean is the score."""

    @field_validator("textures")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        if name and info.context and info.context["check_root"] and not is_there(name, Path.is_dir):
            raise ValueError(f"folder does not exist: {name}")
        return name

    def families(self) -> set[str]:
        """List the shapes and fillings that training uses."""
        return {*self.shapes, *self.fillings}


def what_does_not_fit(section: FilterSection, others: Mapping[str, Any]) -> str:
    """Say which settings the kind of model cannot have; nothing where all fit. Sections that have mistakes of
    their own are not among the `others`."""
    model, encoder, schedule = (others.get(name) for name in ("model", "encoder", "schedule"))
    pixels = encoder is not None and encoder.name == PIXELS
    if model is None or model.kind != "filter":
        return "encoder.name: pixels is for model.kind: filter; name a timm model" if model and pixels else ""
    if pixels and schedule and not schedule.max_epochs:
        return "schedule.max_epochs: 0 trains nothing, and with encoder.name: pixels there is nothing else"
    changed = [
        dotted_key(name, field)
        for name, fields in OF_GAUSSIAN.items()
        for field in fields
        if name in others and getattr(others[name], field) != type(others[name]).model_fields[field].default
    ]
    if changed:
        return f"{', '.join(changed)}: of model.kind: gaussian alone; leave out what a filter does not have"
    return _watched_and_trained(section, others.get("validation"))


def _watched_and_trained(section: FilterSection, validation: Any) -> str:
    """Name the pseudo-anomalies that training uses too; nothing where there are none."""
    if validation is None:
        return ""
    trained = section.families()
    both = {name: trained & set(SAME_AS_CORRUPTION.get(name, ())) for name in validation.named()}
    clashes = {name: sorted(same) for name, same in both.items() if same}
    if isinstance(validation.augmentations, str):
        if len(clashes) < len(both):
            return ""
        return "shapes, fillings: nothing is left for validation.augmentations: auto to watch; take one out"
    if not clashes:
        return ""
    named = "; ".join(f"{name} (as {', '.join(same)})" for name, same in clashes.items())
    return (
        f"validation.augmentations: {named}: what training uses cannot be watched; take it out there, or "
        "out of expert.filter.fillings and shapes"
    )
