"""Read mask files as booleans `(height, width)`: which pixels are defective.

What is background differs from tool to tool: the colour black, what is see-through, the first colour of a
palette. A mask may also be a folder of masks that count together, or LabelMe's outlines.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from anomaly_ft.data.pixels import SUFFIXES

Mask = NDArray[np.bool_]
LOSSY = frozenset({"JPEG", "MPO"})  # in which black is not quite black


def read_mask(path: Path) -> Mask:
    """Read where a mask marks a defect: booleans `(height, width)`, upright.

    Background is black, wholly see-through, or the first colour of a palette; where all that is not
    see-through is black, it is the defect. In a JPEG, half of the brightest value and less is background.

    Raises:
        ValueError: masks of several sizes in one folder, or outlines of a kind that is not read.
        OSError and more: the decoder, for a damaged file.
    """
    if path.is_dir():
        names = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
        return _together([read_mask(each) for each in names if not each.name.startswith(".")], path)
    if path.suffix == ".json":
        return _outlines(json.loads(path.read_text(encoding="utf-8")))
    with Image.open(path) as image:
        image.load()
        lossy, upright = image.format in LOSSY, ImageOps.exif_transpose(image)
    if upright.mode == "P":
        marked: Mask = np.asarray(upright) != 0
        return marked & _solid(upright) if upright.has_transparency_data else marked
    if not upright.has_transparency_data:
        return _coloured(upright, lossy=lossy)
    solid = _solid(upright)
    if not solid.any():  # such opacity says nothing
        return _coloured(upright.convert("RGBA").convert("RGB"), lossy=lossy)
    coloured = _coloured(upright.convert("RGBA").convert("RGB"), lossy=lossy) & solid
    return coloured if coloured.any() or solid.all() else solid


def _coloured(image: Image.Image, *, lossy: bool) -> Mask:
    """Mark pixels where any channel is not zero."""
    values = np.asarray(image.convert("RGB") if len(image.getbands()) > 1 else image)
    if lossy and values.size:
        values = values > values.max() // 2
    marked: Mask = values != 0
    return np.any(marked, axis=2) if marked.ndim == 3 else marked


def _solid(image: Image.Image) -> Mask:
    solid: Mask = np.asarray(image.convert("RGBA").getchannel("A")) != 0
    return solid


def _together(masks: list[Mask], folder: Path) -> Mask:
    sizes = {mask.shape for mask in masks}
    if len(sizes) != 1:
        raise ValueError(f"{len(masks)} masks of {len(sizes)} sizes in {folder.name}, expected one size")
    marked: Mask = np.any(masks, axis=0)
    return marked


def _outlines(drawn: dict[str, Any]) -> Mask:
    """Fill LabelMe's polygons, rectangles and circles."""
    mask = Image.new("1", (int(drawn["imageWidth"]), int(drawn["imageHeight"])))
    draw = ImageDraw.Draw(mask)
    for shape in drawn["shapes"]:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        kind = shape.get("shape_type") or "polygon"
        if kind == "circle":
            (x, y), edge = points
            draw.circle((x, y), float(np.hypot(edge[0] - x, edge[1] - y)), fill=1)
        elif kind == "rectangle":
            (left, right), (top, bottom) = (sorted(values) for values in zip(*points, strict=True))
            draw.rectangle((left, top, right, bottom), fill=1)
        elif kind == "polygon":
            draw.polygon(points, fill=1)
        else:
            raise ValueError(f"a shape of type {kind} marks no area; expected polygon, rectangle or circle")
    filled: Mask = np.asarray(mask)
    return filled
