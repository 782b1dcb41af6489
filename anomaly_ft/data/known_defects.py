"""A few images of known defects, for the objective: read as all others are, refused where they are used
elsewhere.

Their kind is the name of the folder that they lie in. Content is compared byte by byte, as everywhere: a copy
that was saved anew is not recognised.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from anomaly_ft.data.duplicates import identical
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.layouts.files import means_normal
from anomaly_ft.data.layouts.tree import images_below
from anomaly_ft.data.loaded import Images, decode_all
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import Variation, with_copies
from anomaly_ft.errors import DataError

MOST = 10  # with more, train a classifier
AT_ONCE = 8  # of them and their varied copies in each step; more only where there are as many
KEY = "data.known_defects"


def load_known_defects(folder: Path, decoder: Decoder, others: Sequence[Record]) -> Images:
    """Decode all known defects below a folder, in the order of their names.

    Args:
        folder: has them, or sub-folders named after their kinds.
        decoder: reads every image of the run.
        others: the run's normal and test images, none of which may be among them.

    Raises:
        DataError: none or too many, folders named like good ones, unreadable files, or files that are, byte by
            byte, there twice, test images or good images of the run; all that is wrong at once.
    """
    paths = images_below(folder)
    if not paths:
        raise DataError(f"{KEY}: there are no images in {folder}")
    if len(paths) > MOST:
        raise DataError(
            f"{KEY}: {len(paths)} images in {folder}, expected 1 to {MOST}; leave the clearest ones"
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    kinds = [path.parent.name or folder.resolve().name for path in paths]
    records = [Record(folder, name, "train", kind) for name, kind in zip(names, kinds, strict=True)]
    decoded = list(decode_all(records, decoder))
    mistakes = [
        *(f"{r.path}: {why}" for r, why in zip(records, decoded, strict=True) if isinstance(why, str)),
        *(f"{r.path}: in a folder named like good images" for r in records if means_normal(r.kind)),
        *_used_elsewhere(records, others),
    ]
    if mistakes:
        raise DataError("\n  ".join([f"{KEY}: {folder} has what cannot be used:", *mistakes]))
    return Images(np.stack([image for image in decoded if not isinstance(image, str)]), tuple(records))


def copies_of(count: int) -> int:
    """Count the varied copies of each of `count` known defects, which stand beside it in every step.

    >>> copies_of(1), copies_of(5), copies_of(10)
    (7, 1, 1)
    """
    return max(1, AT_ONCE // max(1, count) - 1)


def as_shown(known: Images, variation: Variation) -> Pixels:
    """Fetch known defects and after all of them their varied copies, as every step shows them."""
    copies = with_copies(known, variation, copies_of(len(known))).pixels
    return copies[np.arange(len(copies))]


def _used_elsewhere(records: Sequence[Record], others: Sequence[Record]) -> Iterator[str]:
    """Say of each known defect whose file is that of another image which one it is."""
    known = set(map(id, records))
    for same in identical([*records, *others]):
        mine = [record for record in same if id(record) in known]
        theirs = [record for record in same if id(record) not in known]
        for record in mine if theirs else mine[1:]:
            other = theirs[0] if theirs else mine[0]
            what = "also a test image" if other.split == "test" else "also a good image of the run"
            yield f"{record.path}: {what if theirs else 'there twice'}: {other.path}"
