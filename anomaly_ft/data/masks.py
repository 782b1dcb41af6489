"""Read mask files as booleans `(height, width)`: which pixels are defective.

What is background differs from tool to tool: the colour black, what is see-through, the first colour of a
palette. A mask may also be a folder of masks that count together, or outlines: a file of LabelMe, or, as
`FILE.json#ID`, one image in a COCO file.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from anomaly_ft.data.layouts.files import means_normal
from anomaly_ft.data.pixels import SUFFIXES
from anomaly_ft.data.records import ANOMALOUS

Mask = NDArray[np.bool_]
OF_IMAGE = ".json#"  # between the name of a COCO file and the id of an image in it
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
    if OF_IMAGE in path.name or path.suffix == ".json":
        return _outlined(path)
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


def file_and_image(path: Path) -> tuple[Path, str]:
    """Split where a mask is into its file and, in a COCO file, the id of its image.

    >>> file_and_image(Path("a/result.json#3"))[1], file_and_image(Path("a/3.png"))[1]
    ('3', '')
    """
    stem, mark, image_id = path.name.rpartition(OF_IMAGE)
    return (path.with_name(stem + ".json"), image_id) if mark else (path, "")


def coco_defects(table: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Group the annotations of a COCO file that mark a defect by the id of their image, each with the name of
    its category as `kind`."""
    names = {row["id"]: str(row.get("name", ANOMALOUS)) for row in table.get("categories", []) if "id" in row}
    defects: dict[str, list[Mapping[str, Any]]] = {}
    for row in table["annotations"]:
        kind = names.get(row.get("category_id"), ANOMALOUS)
        if not means_normal(kind):
            defects.setdefault(str(row.get("image_id")), []).append({**row, "kind": kind})
    return defects


def is_outlined(annotation: Mapping[str, Any]) -> bool:
    """Tell whether a COCO annotation has polygons or run lengths as plain numbers, not a box alone."""
    drawn = annotation.get("segmentation")
    if isinstance(drawn, dict):
        return isinstance(drawn.get("counts"), list) and isinstance(drawn.get("size"), list)
    return isinstance(drawn, list) and bool(drawn) and all(isinstance(p, list) and len(p) > 5 for p in drawn)


def _outlined(path: Path) -> Mask:
    """Fill the outlines of one image."""
    file, image_id = file_and_image(path)
    if image_id:
        return _coco_outlines(_coco_file(file, file.stat().st_mtime_ns), image_id)
    return _outlines(json.loads(path.read_text(encoding="utf-8")))


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


@lru_cache(maxsize=1)
def _coco_file(path: Path, changed: int) -> tuple[dict[str, Any], dict[str, list[Mapping[str, Any]]]]:
    """Read a COCO file once for all of its images: rows of the images by id, and their defects."""
    del changed  # when; another time is another file
    table = json.loads(path.read_text(encoding="utf-8"))
    return {str(row.get("id")): row for row in table["images"]}, coco_defects(table)


def _coco_outlines(coco: tuple[dict[str, Any], dict[str, list[Mapping[str, Any]]]], image_id: str) -> Mask:
    """Fill the polygons and run lengths that mark defects of one image."""
    images, defects = coco
    if image_id not in images:
        raise ValueError(f"no image has the id {image_id}")
    width, height = (int(images[image_id][side]) for side in ("width", "height"))
    mask = np.zeros((height, width), bool)
    for annotation in defects.get(image_id, []):
        if not is_outlined(annotation):
            raise ValueError("an annotation without an outline marks no area")
        drawn = annotation["segmentation"]
        mask |= _runs(drawn) if isinstance(drawn, dict) else _polygons(drawn, (width, height))
    return mask


def _polygons(polygons: list[list[float]], size: tuple[int, int]) -> Mask:
    image = Image.new("1", size)
    for points in polygons:
        ImageDraw.Draw(image).polygon(list(zip(points[::2], points[1::2], strict=True)), fill=1)
    filled: Mask = np.asarray(image)
    return filled


def _runs(drawn: Mapping[str, Any]) -> Mask:
    """Fill run lengths, which go down the columns, from one to the next."""
    height, width = drawn["size"]
    counts = np.array(drawn["counts"])
    marked: Mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    return marked
