"""The section of a recipe that says what may differ between good parts: benign variation.

Presets are sums of what a lamp, a camera and a feeder do; a strength given beside the preset replaces the
preset's. What is called benign here the detector will no longer see.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from anomaly_ft.recipe.section import Section

LIGHT = {"brightness": 0.15, "contrast": 0.2, "gamma": 0.3, "uneven_light": 0.05, "white_balance": 0.05}
CAMERA = LIGHT | {"focus": 1.0, "noise": 5.0, "compression": 50.0, "shift": 4.0}
PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "light": LIGHT,
    "camera": CAMERA,
    "free": CAMERA | {"rotation": 180.0, "scale": 0.05, "flips": 0.5},
}
LIMITS = {
    "brightness": 0.5,
    "contrast": 0.5,
    "gamma": 1,
    "uneven_light": 0.2,
    "white_balance": 0.3,
    "focus": 4,
    "noise": 25,
    "compression": 90,
    "shift": 64,
    "rotation": 180,
    "scale": 0.3,
    "flips": 1,
}  # beyond them hardly anybody would call it the same part
_COLOUR = ("brightness", "contrast", "gamma", "white_balance")
# Pseudo-anomalies that are none where one of these changes is benign
SAME_AS = {
    "blur": ("focus",),
    "noise": ("noise",),
    "colour": _COLOUR,
    "augmix": ("rotation", "shift", *_COLOUR, "focus", "noise"),  # chains of these
}


class VariationSection(Section):
    """What may differ between good parts without being a defect; the detector will no longer see it."""

    preset: Literal["none", "light", "camera", "free"] = "camera"
    """`light`; `camera`: light, focus, noise, compression, small shifts; `free`: also turned and mirrored."""
    brightness: Annotated[float, Field(ge=0, le=LIMITS["brightness"])] | None = None
    """Brighter or darker by at most this share; unset, here and below: as the preset has it; 0: never."""
    contrast: Annotated[float, Field(ge=0, le=LIMITS["contrast"])] | None = None
    """More or less contrast by at most this share."""
    gamma: Annotated[float, Field(ge=0, le=LIMITS["gamma"])] | None = None
    """Exponent of the values, 2 to the power of at most plus or minus this."""
    uneven_light: Annotated[float, Field(ge=0, le=LIMITS["uneven_light"])] | None = None
    """Light that rises or falls from one side to the other by at most this share of white."""
    white_balance: Annotated[float, Field(ge=0, le=LIMITS["white_balance"])] | None = None
    """Each colour more or less by at most this share; grey images stay grey."""
    focus: Annotated[float, Field(ge=0, le=LIMITS["focus"])] | None = None
    """Blur with a standard deviation of at most so many pixels of the resized image."""
    noise: Annotated[float, Field(ge=0, le=LIMITS["noise"])] | None = None
    """Noise of the sensor with a standard deviation of at most so many of 255 values."""
    compression: Annotated[float, Field(ge=0, le=LIMITS["compression"])] | None = None
    """JPEG quality of at least 100 minus this."""
    shift: Annotated[float, Field(ge=0, le=LIMITS["shift"])] | None = None
    """Shift by at most so many pixels of the resized image, either way; mirrored at the border."""
    rotation: Annotated[float, Field(ge=0, le=LIMITS["rotation"])] | None = None
    """Turn every varied image by at most so many degrees, either way; mirrored at the border."""
    scale: Annotated[float, Field(ge=0, le=LIMITS["scale"])] | None = None
    """Larger or smaller by at most this share."""
    flips: Annotated[float, Field(ge=0, le=LIMITS["flips"])] | None = None
    """Share of varied images that get one of the eight poses of a square: mirrored, or turned by quarters."""
    copies: int = Field(default=2, ge=0, le=16)
    """Varied copies of each training image in the statistics; the image itself is always there."""

    def strengths(self) -> dict[str, float]:
        """List the strength of each change that is switched on."""
        given = self.model_dump(exclude={"preset", "copies"}, exclude_none=True)
        together = PRESETS[self.preset] | given
        return {name: float(strength) for name, strength in together.items() if strength}


def stronger(strengths: Mapping[str, float], factor: float) -> dict[str, float]:
    """Multiply strengths, up to the limit of each.

    >>> stronger({"brightness": 0.15, "rotation": 180}, 2)
    {'brightness': 0.3, 'rotation': 180}
    """
    return {name: min(LIMITS[name], factor * strength) for name, strength in strengths.items()}
