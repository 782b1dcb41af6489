"""Measure whether the detector looks where the defect is: maps against masks, at the masks' own size.

Images are taken one at a time, so memory does not grow with their number. An anomalous image without
a mask, or with one that is damaged or marks nothing, does not say where its defect is: it is left out
of the pixel numbers and counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.images import Decoder, upright_size
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.pixel_counts import CalledPixels, NormalImages, PixelCounts
from anomaly_ft.metrics import curve
from anomaly_ft.model.maps import Map, upsample

Mask = NDArray[np.bool_]
COARSE = 128  # pixels along the longer side at which single images are compared


@dataclass(frozen=True)
class Attention:
    """Of one kind of anomaly, means over `images`: the share of contribution that lies inside the mask,
    and the share of the image that the mask covers. `elsewhere`: no more inside than anywhere."""

    kind: str
    images: int
    inside: float
    area: float
    elsewhere: bool


@dataclass(frozen=True)
class Localisation:
    """Pixel numbers of the map that localises, and of each other one with its name before them, None where
    there are no masks; attention by kind; pixel AUROC of the map that localises for single images, by position
    in the records; what was left out."""

    numbers: dict[str, float | None]
    attention: tuple[Attention, ...]
    by_image: dict[int, float]
    regions: int
    with_mask: int
    empty_masks: int
    without_mask: int
    unreadable_masks: int


def localise(
    records: Sequence[Record], maps: Mapping[str, Map], decoder: Decoder, limit: float | None = None
) -> Localisation:
    """Compare maps `(n, rows, columns)` with the records' masks; where there is no mask nothing is measured.

    The first map localises, the last one explains the score, see `Outputs`.

    Args:
        records: of the images.
        maps: by name.
        decoder: by which the images were read; it says which place of an image a place of the map is.
        limit: what no place of an unsuspicious first map exceeds; None: it has none.
    """
    prefixes = {"" if i == 0 else f"{name}_": name for i, name in enumerate(maps)}
    called, normal = CalledPixels(np.inf if limit is None else limit), NormalImages()
    pixels = {prefix: PixelCounts() for prefix in prefixes}
    by_image: dict[int, float] = {}
    shares: dict[str, list[tuple[float, float]]] = {}
    left_out = {"without": 0, "unreadable": 0, "empty": 0}
    overlaps: list[float | None] = []
    measured = any(record.mask for record in records)
    # normal ones first, whose pixels say where the overlap of the others is taken
    for i in sorted(range(len(records)), key=lambda i: records[i].anomalous):
        record, mask = records[i], _mask_of(records[i])
        if isinstance(mask, str):
            left_out[mask] += 1
            continue
        if not measured:
            continue
        height, width = mask.shape if mask is not None else image_size(record.path)
        large = [upsample(map_[i], height, width, decoder) for map_ in maps.values()]
        for prefix, one in zip(prefixes, large, strict=True):
            pixels[prefix].add(one, mask)
        called.add(large[0], mask)
        if mask is None or not mask.any():
            normal.add(large[0])
        if mask is not None and record.anomalous:
            overlaps.append(normal.overlaps(large[0], mask))
            shares.setdefault(record.kind, []).append(attention_share(large[-1], mask))
            by_image.update(_coarse_auroc(i, large[0], mask))
    known = [overlap for overlap in overlaps if overlap is not None]
    numbers = _flat({prefix: counts.numbers() for prefix, counts in pixels.items()})
    numbers["pixel_aupimo"] = float(np.mean(known)) if known else None
    if limit is not None:
        numbers["pixel_f1"] = called.f1()
    return Localisation(
        numbers,
        tuple(_attention(kind, pairs) for kind, pairs in shares.items()),
        by_image,
        pixels[""].regions,
        sum(len(pairs) for pairs in shares.values()),
        left_out["empty"],
        left_out["without"],
        left_out["unreadable"],
    )


def attention_share(contribution: Map, mask: Mask) -> tuple[float, float]:
    """Measure the share of what raises the score that lies inside the mask, and the mask's share of the
    image.

    Negative contributions, places that look more normal than the average, are taken as none.
    """
    raising = np.maximum(contribution, 0)
    total = float(raising.sum(dtype=np.float64))
    inside = float(raising[mask].sum(dtype=np.float64)) / total if total else 0.0
    return inside, float(mask.mean())


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of an upright image from its header."""
    with Image.open(path) as image:
        width, height = upright_size(image)
    return height, width


def _mask_of(record: Record) -> Mask | str | None:
    """Read the mask; None for a normal image without one, or the reason why it cannot be used."""
    if record.mask is None:
        return "without" if record.anomalous else None
    try:
        mask = read_mask(record.mask)
    except Exception:  # decoders raise nearly anything on damaged files
        return "unreadable"
    if record.anomalous and not mask.any():
        return "empty"
    return mask


def _attention(kind: str, pairs: Iterable[tuple[float, float]]) -> Attention:
    inside, area = np.array(list(pairs)).T
    return Attention(
        kind, len(inside), float(inside.mean()), float(area.mean()), bool(inside.mean() <= area.mean())
    )


def _coarse_auroc(i: int, large: Map, mask: Mask) -> dict[int, float]:
    step = max(1, max(mask.shape) // COARSE)
    few = mask[::step, ::step]
    if few.all() or not few.any():
        return {}
    return {i: float(curve(few.ravel(), large[::step, ::step].ravel()).auroc())}


def _flat(numbers: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Name the numbers of all maps: all of the first, three of each other."""
    others = ("pixel_auroc", "pixel_ap", "pixel_aupro")
    return {
        prefix + name: value
        for prefix, values in numbers.items()
        for name, value in values.items()
        if not prefix or name in others
    }
