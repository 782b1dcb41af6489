"""Name every image file below a root that is not used, with the reason."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_ft.data.layouts.files import TRAIN, UNLABELLED, VALIDATION, stem_of, without_tail
from anomaly_ft.data.layouts.matching import match_masks
from anomaly_ft.data.layouts.tree import HIDDEN, JUNK, Tree, list_tree
from anomaly_ft.data.records import Record

SHOWN = 3
VIEW = re.compile(r"(.+)_C\d+[_.]")
NO_IMAGE = "masks that belong to no image"
NO_NEED = "masks of normal images, which need none"
DEPTHS = "depth images beside photographs"
SECRET = "their labels are not published"
LEFT_OUT = "masks of defective images in a folder for training"
EXPECTED = frozenset({NO_NEED, LEFT_OUT, HIDDEN, JUNK})  # which nobody has to do anything about
DEFECTS = "defective images in a folder for training, left out as in the published protocol"


@dataclass(frozen=True)
class Unused:
    """Image files that are not used, and why."""

    why: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        examples = ", ".join([*self.names[:SHOWN], *(["..."] if len(self.names) > SHOWN else [])])
        return f"{len(self.names)} image files not used ({self.why}): {examples}"


def find_unused(tree: Tree, records: Iterable[Record], otherwise: str) -> tuple[Unused, ...]:
    """Find all image files that no record names as image or mask, by reason.

    Args:
        tree: all files.
        records: of the images, also of those that are left out on purpose: defective ones in `train`.
        otherwise: the reason where nothing in the name gives one.
    """
    reasons: dict[str, list[str]] = {}
    used, folders, normal = set(), set(), []
    for record in records:
        used.add(record.name)
        if record.split == "train" and record.anomalous:
            reasons.setdefault(DEFECTS, []).append(record.name)
            reasons.setdefault(LEFT_OUT, []).append(record.mask_name)
        if record.mask_name:
            used.add(record.mask_name)
            folders.add(record.mask_name)
        if not record.anomalous:
            normal.append(record.name)
    left = [name for name in tree.names if name not in used and name.rpartition("/")[0] not in folders]
    if left:
        masks, depths = set(tree.masks), set(tree.depths)
        needless = set(match_masks(normal, [name for name in left if name in masks]).values())
        for name in left:
            mask = NO_NEED if name in needless or name.rpartition("/")[0] in needless else NO_IMAGE
            hidden = SECRET if UNLABELLED.match(name) else otherwise
            is_mask = name in masks or without_tail(stem_of(name)) != stem_of(name)
            why = mask if is_mask else DEPTHS if name in depths else hidden
            reasons.setdefault(why, []).append(name)
    reasons |= tree.passed
    return tuple(Unused(why, tuple(names)) for why, names in reasons.items())


def notes_on(records: Sequence[Record]) -> tuple[str, ...]:
    """Note what is used otherwise than the name of its folder says: defective images for training or
    validation are test images, good ones for validation are training images."""
    moved: Counter[str] = Counter()
    for record in records:
        folder = record.name.partition("/")[0]
        if record.anomalous and folder.lower() in TRAIN | VALIDATION:
            moved[f"defective images of {folder}/ serve as test images"] += 1
        elif not record.anomalous and folder.lower() in VALIDATION:
            moved[f"good images of {folder}/ are used for training with the others"] += 1
    return tuple(f"{count} {what}" for what, count in moved.items())


def notes_on_views(records: Sequence[Record]) -> tuple[str, ...]:
    """Note images that are views of the same parts by several cameras, `_C1_`, `_C2_`, as in Real-IAD."""
    views = [match[1] for record in records if not record.group and (match := VIEW.match(record.name))]
    parts = len(set(views))
    if not views or len(views) < 2 * parts:
        return ()
    pattern = f"'{VIEW.pattern}'"
    return (
        f"{len(views)} images are views of {parts} parts: keep them together with data.group_by: {pattern}",
    )


def tree_of_listed(base: Path, records: Sequence[Record]) -> Tree:
    """List the files of the folders that a manifest takes images from, without folders it does not
    mention."""
    tops = sorted({record.name.split("/")[0] for record in records if "/" in record.name})
    tree = Tree(base)
    for top in tops:
        inner = list_tree(base / top)
        tree.names += [f"{top}/{name}" for name in inner.names]
        for why, names in inner.passed.items():
            tree.passed.setdefault(why, []).extend(f"{top}/{name}" for name in names)
        tree.mixed |= {f"{top}/{key}".rstrip("/") for key in inner.mixed}
        tree.folders |= {f"{top}/{key}".rstrip("/"): value for key, value in inner.folders.items()}
    return tree
