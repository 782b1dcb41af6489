"""Match masks with images by their names."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from anomaly_ft.data.layouts.files import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    MASK_FOLDERS,
    TEST,
    TRAIN,
    VALIDATION,
    stem_of,
    without_tail,
)

SPLITS = TRAIN | VALIDATION | TEST
NO_KIND = MASK_FOLDERS | LABEL_FOLDERS | IMAGE_FOLDERS  # folders that say nothing about what is in an image


def match_masks(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Match each image that has one with its mask: a file, or a folder of masks that are united.

    Names match without regard to upper and lower case, to words for masks and for images among the
    folders, and to the folder `test` where masks know none. Masks of one folder, not sorted by types of
    defects, match an image whose name is the only one of its kind.
    """
    by_key: dict[str, str] = {}
    for mask in sorted(masks, key=lambda name: (without_tail(stem_of(name)) == stem_of(name), name)):
        for key in (_key(mask), _key(mask, tail=True)):
            by_key.setdefault(key, mask)
    by_folder: dict[str, list[str]] = {}
    for mask in masks:
        by_folder.setdefault(_key(mask).rpartition("/")[0], []).append(mask)
    image_keys = {image: _key(image, tail=True) for image in images}
    stems = Counter(key.rpartition("/")[2] for key in image_keys.values())
    matched = {}
    for image, key in image_keys.items():
        head, _, rest = key.partition("/")
        stem = key.rpartition("/")[2]
        keys = [key, *([rest] if head in SPLITS else []), *([stem] if stems[stem] == 1 else [])]
        several = next((by_folder[k] for k in keys if k in by_folder and k), [])
        single = next((by_key[k] for k in keys if k in by_key), "")
        if single or several:
            together = several[0].rpartition("/")[0] if len(several) > 1 else several[0] if several else ""
            matched[image] = single or together
    return matched


def _key(name: str, *, tail: bool = False) -> str:
    """Reduce a name to what a mask and its image have in common."""
    folder, _, file = name.rpartition("/")
    stem = file.rpartition(".")[0].lower()
    return _place(folder) + (stem if tail else without_tail(stem))


@lru_cache(maxsize=4096)
def _place(folder: str) -> str:
    """Keep of a path the folders that say what kind an image is of, with a slash at the end."""
    return "".join(f"{part}/" for part in folder.lower().split("/") if part and part not in NO_KIND)
