"""Names of the vicinal augmentations, and those that are used unless a recipe names others."""

from typing import Literal

Augmentation = Literal[
    "mixup",
    "cutmix",
    "cutout",
    "cutpaste",
    "scar",
    "confetti",
    "line",
    "stain",
    "blend",
    "warp",
    "augmix",
    "blur",
    "noise",
    "colour",
]


USUAL: tuple[Augmentation, ...] = ("line", "stain", "blend", "warp")
