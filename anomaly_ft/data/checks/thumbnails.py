"""Draw a contact sheet: a few images of every kind on one page, masks outlined."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from anomaly_ft.data.images import resize_image, resize_mask, view_image
from anomaly_ft.data.loaded import UNREADABLE
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import Record
from anomaly_ft.system.files import write_bytes

CELL = 128  # pixels along each side of a picture
EACH = 8  # pictures of each kind
GAP, HEADING = 6, 18
OUTLINE = (255, 40, 40)


def contact_sheet(records: Sequence[Record], path: Path) -> int:
    """Write a picture with a row for each kind in each split; returns how many images are on it.

    The images of a row are taken evenly over the kind, in the order of their names. One that cannot be
    read is a grey field.

    Raises:
        OSError, ValueError: the file cannot be written, or its ending is no image format.
    """
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path.suffix or 'no ending'} is no image that Pillow writes; name it .png")
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(f"{record.split}: {record.kind}", []).append(record)
    width = EACH * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, len(rows) * (CELL + HEADING + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    shown = 0
    for i, (title, members) in enumerate(rows.items()):
        top = GAP + i * (CELL + HEADING + GAP)
        draw.text((GAP, top), f"{title} ({len(members)})", fill="black")
        chosen = np.unique(np.linspace(0, len(members) - 1, min(EACH, len(members))).round().astype(int))
        for k, j in enumerate(chosen):
            sheet.paste(_picture(members[j]), (GAP + k * (CELL + GAP), top + HEADING))
        shown += len(chosen)
    content = io.BytesIO()
    sheet.save(content, Image.registered_extensions()[path.suffix.lower()])
    write_bytes(path, content.getvalue())
    return shown


def _picture(record: Record) -> Image.Image:
    try:
        picture = resize_image(view_image(record.path).image, CELL, "letterbox")
        if record.mask:
            marked = Image.fromarray(
                resize_mask(read_mask(record.mask), CELL, "letterbox").astype(np.uint8) * 255
            )
            edge = np.asarray(marked.filter(ImageFilter.MaxFilter(3))) != np.asarray(marked)
            picture.paste(OUTLINE, mask=Image.fromarray(edge.astype(np.uint8) * 255))
    except UNREADABLE:
        return Image.new("RGB", (CELL, CELL), "grey")
    return picture
