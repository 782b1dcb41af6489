"""A sheet of varied good images, for the eye of somebody who knows the parts.

Rows are images; columns the image as it is, each change alone at full strength, and several as a run varies
them. The question stands on top: are all of these good parts?
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import JPEG_BEST, Variation, affine, jitter

ACROSS = 7  # columns beside one another; the others stand below
MIXED = 4  # columns in which changes meet as in a run
GAP, MARGIN, TITLE, HEADING = 6, 14, 28, 19  # pixels; the last two the heights of letters
TURNS = (0.25, -0.5, 0.75, 1.0)  # of the strength, so that not all rows are turned alike
QUESTION = "Are all of these good parts? If not, lower the strength of that change in the recipe; 0 is never."
LOSS = "What is called benign here the detector will no longer see."

# What stands above a column, and a strength's change at its full, of images in the order of rows
HEADINGS: Mapping[str, Callable[[float], str]] = {
    "flips": lambda s: f"flips\n{s:.0%} of images",
    "rotation": lambda s: f"rotation\nup to ±{s:g}°",
    "scale": lambda s: f"scale\n±{s:.0%}",
    "shift": lambda s: f"shift\n±{s:g} pixels",
    "brightness": lambda s: f"brightness\n±{s:.0%}",
    "contrast": lambda s: f"contrast\n±{s:.0%}",
    "gamma": lambda s: f"gamma\n2^±{s:g}",
    "uneven_light": lambda s: f"uneven_light\n{s:.0%} of white",
    "white_balance": lambda s: f"white_balance\n±{s:.0%}",
    "focus": lambda s: f"focus\nblur, sd {s:g} pixels",
    "noise": lambda s: f"noise\nsd {s:g} of 255",
    "compression": lambda s: f"compression\nJPEG quality {100 - s:g}",
}


def _flipped(image: Pixels, row: int) -> Pixels:
    quarter = 1 if image.shape[0] == image.shape[1] else 2  # a strip has no quarter turn in its own frame
    return [image[:, ::-1], np.rot90(image, quarter), image[::-1], np.rot90(image, 2)][row % 4]


def _by(make: Callable[[float], Any]) -> Callable[[Pixels, float, int], Pixels]:
    """Apply one direction at full strength in even rows, the other in odd ones."""

    def change(image: Pixels, strength: float, row: int) -> Pixels:
        transform = albumentations.Compose([make(-strength if row % 2 else strength)], seed=row)
        return np.asarray(transform(image=image)["image"])

    return change


def _cast(image: Pixels, strength: float, row: int) -> Pixels:
    """Shift colours: redder and less blue, or the other way round."""
    factors = 1 + strength * np.array([1, 0, -1]) * (-1) ** row
    return np.asarray(np.clip(image * factors, 0, 255).round(), np.uint8)


def _turned(image: Pixels, strength: float, row: int) -> Pixels:
    share = TURNS[row % len(TURNS)] if strength > 90 else (-1) ** row
    return _by(lambda s: affine(rotate=(s, s)))(image, share * strength, 0)


def _noise(*, grey: bool) -> Callable[[float], Any]:
    return lambda s: albumentations.GaussNoise(std_range=(abs(s) / 255,) * 2, per_channel=not grey, p=1)


def _grey(pixels: Pixels) -> bool:
    return bool((pixels == pixels[..., :1]).all())


FULL: Mapping[str, Callable[[Pixels, float, int], Pixels]] = {
    "flips": lambda image, s, row: _flipped(image, row),
    "rotation": _turned,
    "scale": _by(lambda s: affine(scale=(1 + s, 1 + s))),
    "shift": _by(lambda s: affine(translate_px={axis: (round(s), round(s)) for axis in "xy"})),
    "brightness": _by(lambda s: jitter(brightness=(1 + s, 1 + s))),
    "contrast": _by(lambda s: jitter(contrast=(1 + s, 1 + s))),
    "gamma": _by(lambda s: albumentations.RandomGamma(gamma_limit=(100 * 2**s, 100 * 2**s), p=1)),
    "uneven_light": _by(lambda s: albumentations.Illumination(intensity_range=(max(0.01, abs(s)),) * 2, p=1)),
    "white_balance": _cast,
    "focus": _by(lambda s: albumentations.GaussianBlur(blur_limit=0, sigma_limit=(abs(s), abs(s)), p=1)),
    "noise": lambda image, s, row: _by(_noise(grey=_grey(image)))(image, s, row),
    "compression": _by(
        lambda s: albumentations.ImageCompression(quality_range=(min(round(100 - abs(s)), JPEG_BEST),) * 2, p=1)
    ),
}


def variation_sheet(pixels: Pixels, strengths: Mapping[str, float], seed: int = 0) -> Image.Image:
    """Draw good images as they are and varied.

    Args:
        pixels: `(n, h, w, 3)`, a row for each.
        strengths: of the changes that are switched on; white balance is left out where all images are grey.
        seed: of the run that is to vary images so.
    """
    columns = varied_columns(pixels, strengths, seed)
    wide, high = pixels.shape[2] + GAP, pixels.shape[1] + GAP
    bands = math.ceil(len(columns) / ACROSS)
    band, top = len(pixels) * high + 3 * HEADING + MARGIN, 2 * MARGIN + 2 * TITLE
    sheet = Image.new("RGB", (ACROSS * wide + 2 * MARGIN, top + bands * band), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), QUESTION, fill="black", font=ImageFont.load_default(TITLE))
    draw.text((MARGIN, MARGIN + 1.3 * TITLE), LOSS, fill="black", font=ImageFont.load_default(HEADING))
    for k, (heading, images) in enumerate(columns.items()):
        left, above = MARGIN + k % ACROSS * wide, top + k // ACROSS * band + MARGIN
        draw.multiline_text((left, above), heading, fill="black", font=ImageFont.load_default(HEADING))
        for row, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (left, round(above + 2.6 * HEADING) + row * high))
    return sheet


def varied_columns(pixels: Pixels, strengths: Mapping[str, float], seed: int) -> dict[str, Sequence[Pixels]]:
    """Draw what the columns show, below their headings: images `(n, h, w, 3)` each."""
    grey = _grey(pixels)
    columns: dict[str, Sequence[Pixels]] = {"as it is": list(pixels)}
    for name, strength in strengths.items():
        if not (grey and name == "white_balance"):
            changed = [FULL[name](image, strength, row) for row, image in enumerate(pixels)]
            columns[HEADINGS[name](strength)] = changed
    variation = Variation(strengths, seed)
    images = Images(pixels, tuple(Record(Path(), f"row {i}", "train") for i in range(len(pixels))))
    for number in range(MIXED if variation else 0):
        columns[f"as in a run, {number + 1}\nup to three at once"] = list(variation.copy(images, number).pixels)
    return columns
