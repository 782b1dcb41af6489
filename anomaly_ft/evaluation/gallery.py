"""Draw the same few images with their maps after every validation, so that learning and forgetting show.

They are looked at by people and choose nothing.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import NORMAL, Record
from anomaly_ft.evaluation.pictures import ColourScale, Pixels, overlay, scale_of
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.inference import predict
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Predictions

CAPTION = 18  # pixels below a picture
NOT_IN_A_KEY = re.compile(r"[^\w .-]+")  # what MLflow takes in the name of an image, less the slash


@dataclass
class Gallery:
    """`look` at fixed images with a detector, then take the `pictures`.

    All pictures of one run share the colour scale of the first look, so that brighter means more.
    """

    names: Sequence[str]
    pixels: Pixels  # (n, h, w, 3)
    normal: NDArray[np.bool_]  # (n,), which of them are normal images
    compute: Compute
    _scale: ColourScale | None = None
    _seen: Predictions | None = None

    def look(self, detector: Detector) -> None:
        """Score and map the images by a detector, for the next `pictures`."""
        if not self.names:
            return
        self._seen = predict(detector, self.pixels, self.compute)
        self._scale = self._scale or scale_of(self._seen.localises, self.normal)

    def pictures(self) -> Iterator[tuple[str, Pixels]]:
        """Draw each image beside its map, under `maps/NAME`; nothing when there was no look since."""
        seen, self._seen = self._seen, None
        if seen is None or self._scale is None:
            return
        shown = zip(self.names, self.pixels, seen.localises, seen.score, strict=True)
        for name, image, values, score in shown:
            large = Image.fromarray(values).resize((image.shape[1], image.shape[0]), Image.Resampling.BILINEAR)
            pair = np.hstack([image, overlay(image, np.asarray(large), self._scale)])
            yield f"maps/{name}", _captioned(pair, f"{name}: {seen.decides} score {score:.2f}")


def choose(records: Sequence[Record], count: int) -> list[int]:
    """Choose positions of `count` images: a third normal, the others of each kind in turn, in the order of
    names."""
    by_kind: dict[str, list[int]] = {}
    for i in sorted(range(len(records)), key=lambda i: records[i].name):
        by_kind.setdefault(records[i].kind, []).append(i)
    normal = by_kind.pop(NORMAL, [])
    turns = max(map(len, by_kind.values()), default=0)
    anomalous = [those[turn] for turn in range(turns) for those in by_kind.values() if turn < len(those)]
    wanted = max(1, count // 3) if anomalous else count
    chosen = normal[: max(wanted, count - len(anomalous))]
    return (chosen + anomalous[: count - len(chosen)])[:count]


def gallery_of(
    test: Images, held_out: Images, pseudo: Mapping[str, Pixels], compute: Compute, *, count: int
) -> Gallery:
    """Test images, or where there are none held-out normal images and their pseudo-anomalies.

    Args:
        test: labelled images, maybe none.
        held_out: held-out normal images.
        pseudo: pseudo-anomalies by augmentation.
        count: how many to show.
    """
    if len(test):
        shown = [test.records[i] for i in choose(test.records, count)]
        pixels = [test.pixels[test.records.index(record)] for record in shown]
        names, normal = _names(shown), [not record.anomalous for record in shown]
    else:
        alone = held_out.records[: max(1, count // 3)][:count]
        wrong = list(pseudo)[: count - len(alone)]
        pixels = [held_out.pixels[i] for i in range(len(alone))] + [pseudo[name][0] for name in wrong]
        names = [*_names(alone), *(f"pseudo {name}" for name in wrong)]
        normal = [True] * len(alone) + [False] * len(wrong)
    stacked = np.stack(pixels) if pixels else np.empty((0, 1, 1, 3), np.uint8)
    return Gallery(names, stacked, np.array(normal, dtype=bool), compute)


def _names(records: Sequence[Record]) -> list[str]:
    """Join kind and file name, fit for a key; a name that comes again gets a number."""
    names: list[str] = []
    for record in records:
        stem = record.name.rpartition("/")[2].rpartition(".")[0]
        name = NOT_IN_A_KEY.sub("-", f"{record.kind} {stem}")
        numbered = (f"{name} {number}" for number in itertools.count(2))
        names.append(
            next(free for free in (name, *itertools.islice(numbered, len(names))) if free not in names)
        )
    return names


def _captioned(picture: Pixels, text: str) -> Pixels:
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width, height + CAPTION), "white")
    page.paste(Image.fromarray(picture))
    ImageDraw.Draw(page).text((3, height + 2), text, fill="black", font=ImageFont.load_default(12))
    return np.asarray(page)
