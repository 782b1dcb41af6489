"""Words in names that mark images as good, defective, masks, or for training and for testing."""

import posixpath
import re

TRAIN = frozenset({"train", "training"})
VALIDATION = frozenset({"val", "valid", "validation"})
TEST = frozenset({"test", "testing", "test_public"})
UNLABELLED = re.compile(r"test_private", re.IGNORECASE)  # of MVTec AD 2: labels are not published
NORMAL_WORDS = frozenset({"good", "ok", "normal", "io", "pass", "passed", "defectless", "undamaged"})
NO = frozenset({"not", "no", "non", "un", "n"})
DEFECT_TYPES = frozenset(
    {
        *(
            "crack",
            "cracks",
            "cracked",
            "scratch",
            "scratches",
            "scratched",
            "dent",
            "dents",
            "stain",
            "stains",
        ),
        *("rust", "corrosion", "contamination", "blowhole"),
    }
)
DEFECT_WORDS = DEFECT_TYPES | {
    *(
        "abnormal",
        "anomaly",
        "anomalies",
        "anomalous",
        "def",
        "defect",
        "defects",
        "defective",
        "error",
        "errors",
    ),
    *(
        "bad",
        "broken",
        "damage",
        "damaged",
        "fail",
        "failed",
        "fault",
        "faulty",
        "flaw",
        "ko",
        "nio",
        "ng",
        "nok",
    ),
    *("reject", "rejects", "rejected", "scrap", "ungood"),
}
MASK_FOLDERS = frozenset(
    {
        "ground_truth",
        "groundtruth",
        "ground-truth",
        "gt",
        "gts",
        "mask",
        "masks",
        "segmentation",
        "segmentations",
    }
)
LABEL_FOLDERS = frozenset({"label", "labels", "annotation", "annotations"})  # of masks where images are beside
IMAGE_FOLDERS = frozenset({"img", "imgs", "image", "images", "rgb"})
DEPTH_FOLDERS = frozenset({"xyz", "depth", "normals", "pointcloud", "pcd"})  # beside `rgb`: no photographs
MASK_TAIL = re.compile(
    r"[ _.-]?(mask|masks|gt|label|seg|groundtruth|ground_truth)(?P<copy>( ?\(.+\)| - .+)?)$", re.IGNORECASE
)


def words(name: str) -> list[str]:
    """Split a name into its words, in lower case.

    >>> words("cast_OK_0-12.front")
    ['cast', 'ok', '0', '12', 'front']
    """
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def means_normal(name: str) -> bool:
    """Tell whether a name says that something is good.

    >>> [means_normal(name) for name in ("Good", "ok_front", "defect-free", "not_ok", "NOK", "line 1")]
    [True, True, True, False, False, False]
    """
    parts = words(name)
    if {"defect", "free"} <= set(parts) or (
        set(parts) & NO and set(parts) & {"defect", "defects", "defective"}
    ):
        return True
    return bool(set(parts) & NORMAL_WORDS) and not set(parts) & (NO | DEFECT_WORDS)


def means_defect(name: str) -> bool:
    """Tell whether a name says that something is defective.

    >>> [means_defect(name) for name in ("NG", "cast_def_0", "not ok", "defect_free", "line 1")]
    [True, True, True, False, False]
    """
    parts = set(words(name))
    return not means_normal(name) and bool(parts & DEFECT_WORDS or (parts & NO and parts & NORMAL_WORDS))


def without_tail(stem: str) -> str:
    """Strip what marks a mask's name, which leaves its image's; a name without such a mark stays.

    >>> without_tail("000_mask"), without_tail("10301_GT (copy)"), without_tail("part")
    ('000', '10301 (copy)', 'part')
    """
    if stem[-1:].isdigit():  # most names, and soon said
        return stem
    match = MASK_TAIL.search(stem)
    if match and match.start():
        return stem[: match.start()] + match["copy"]
    return stem


def stem_of(name: str) -> str:
    """Strip a name's ending, folders kept.

    >>> stem_of("a.b/c.d.png")
    'a.b/c.d'
    """
    return posixpath.splitext(name)[0]  # ten times as fast as a path, for each of many files
