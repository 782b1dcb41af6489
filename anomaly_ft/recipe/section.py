"""Sections of a recipe, and which settings stand in which: a beginner's, and those under `expert`.

Code finds each setting in the section of its topic (`recipe.gaussian.grid`). In a file and on the command
line only what a beginner is asked for stands there; all else stands in sections of the same names under
`expert` (`expert.gaussian.grid`). `BEGINNER` draws the line. Above it stand

* what only the user can know: which images, how they are laid out, grouped and split; what may differ between
  good parts; where runs are tracked; the device, and where decoded images may be kept;
* sixteen settings that are worth a try, each with a plain effect: image size and how images are made square;
  which encoder, from where, how much of it trains, and who teaches it; whether parts lie in their places;
  learning rate, batch size, steps and epochs; pseudo-anomalies that look like one's own defects; the false
  positive rate and what its guarantee means; precision.

The score that decides (`expert.gaussian.score`) is not among them: by default it is a sum that stays near the
better of its parts and all of them are reported, so another choice should rest on measured defects.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

BEGINNER: dict[str, tuple[str, ...]] = {
    "data": ("root", "layout", "manifest", "group_by", "image_size", "resize", "range", "known_defects"),
    "variation": (
        *("preset", "brightness", "contrast", "gamma", "uneven_light", "white_balance", "focus", "noise"),
        *("compression", "shift", "rotation", "scale", "flips"),
    ),
    "encoder": ("name", "weights", "train_blocks", "adapt"),
    "objective": ("teacher",),
    "model": ("kind",),
    "filter": ("textures",),
    "gaussian": ("position",),
    "validation": ("augmentations",),
    "optimizer": ("lr", "batch_size"),
    "schedule": ("max_steps", "max_epochs"),
    "evaluation": ("false_positive_rate", "guarantee"),
    "tracking": ("mlflow", "uri", "experiment", "register"),
    "runtime": ("device", "precision", "cache"),
}
EXPERT = "expert"


def is_there(name: str, kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Tell whether a name in a recipe is that of a file or folder, of a kind such as `Path.is_dir`."""
    try:
        return kind(Path(name).expanduser())
    except (OSError, RuntimeError):  # a name that is too long, `~` of somebody who is not known
        return False


class Section(BaseModel):
    """A part of the recipe: unknown keys are mistakes, values do not change after reading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def sections(model: type[BaseModel]) -> dict[str, type[Section]]:
    """Map the names of a model's fields that are sections to their types."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def dotted_key(section: str, name: str) -> str:
    """Spell the key of a setting as files have it; `section` is empty for `name` and `seed`.

    >>> dotted_key("optimizer", "lr"), dotted_key("optimizer", "layer_decay")
    ('optimizer.lr', 'expert.optimizer.layer_decay')
    """
    if not section:
        return name
    key = f"{section}.{name}"
    if name in BEGINNER.get(section, ()):
        return key
    return f"{EXPERT}.{key}"


@cache
def places(recipe: type[Section]) -> Mapping[str, tuple[str, str]]:
    """Map the dotted key of every setting to its section and name in code; of settings outside the sections,
    the section is empty."""
    inner = sections(recipe)
    pairs = [("", name) for name in recipe.model_fields if name not in inner]
    pairs += [(section, name) for section, kind in inner.items() for name in kind.model_fields]
    return {dotted_key(*pair): pair for pair in pairs}
