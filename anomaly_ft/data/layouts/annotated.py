"""Images with annotation files of a labelling tool: COCO and LabelMe (.json), Pascal VOC (.xml), YOLO (.txt).

An image is defective where something is annotated on it that is not called good, ok or normal. Outlines of
LabelMe and of COCO serve as masks, boxes do not. Label Studio's own JSON is refused by name.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from anomaly_ft.data.layouts.files import IMAGE_FOLDERS, TEST, TRAIN, VALIDATION, means_normal, stem_of
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.masks import coco_defects, is_outlined
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record
from anomaly_ft.errors import DataError

SKETCH = "images with annotations of defects: COCO, LabelMe, Pascal VOC or YOLO; without one an image is normal"
MAX_BYTES = 2**29  # of an annotation file
YOLO_LINE = re.compile(r"\d+( -?[\d.eE+-]+){4,}\s*")
VOC_NAME = re.compile(r"<object>.*?<name>(.*?)</name>", re.DOTALL)
LABELS = dict.fromkeys(
    ("labels", "annotations", "label", "annotation")
)  # folders for notes of images elsewhere


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    annotated = _find(tree)
    if not annotated:
        return ""
    tool, kinds = annotated
    marked = sum(kind != NORMAL for kind, _ in kinds.values())
    return f"there are annotations of {tool}: on {marked} images something is marked"


def read(tree: Tree) -> list[Record]:
    """Read annotated images as anomalous test images; the others are undecided where no folder is for the
    test.

    Raises:
        DataError: annotations that are not read.
    """
    tool, kinds = _find(tree) or ("", {})
    if tool == "Label Studio":
        raise DataError(
            f"data.root: {tree.root} has labels in Label Studio's own JSON, which are not read; export "
            "them as COCO, or set data.layout to plain if all images are good"
        )
    records = []
    for name in tree.images:
        kind, mask = kinds.get(name, (NORMAL, ""))
        folders = {part.lower() for part in name.split("/")[:-1]}
        given = "test" if folders & TEST else "train" if folders & (TRAIN | VALIDATION) else "undecided"
        records.append(Record(tree.root, name, "test" if kind != NORMAL else given, kind, mask))  # type: ignore[arg-type]
    return records


def _find(tree: Tree) -> tuple[str, dict[str, tuple[str, str]]] | None:
    """Find the annotating tool, and of each annotated image its kind and mask file; nothing where nobody
    annotated."""
    if "annotated" not in tree.memo:
        tree.memo["annotated"] = _read_notes(tree)
    annotated: tuple[str, dict[str, tuple[str, str]]] | None = tree.memo["annotated"]
    return annotated


def _read_notes(tree: Tree) -> tuple[str, dict[str, tuple[str, str]]] | None:
    images = {stem_of(name): name for name in tree.names}
    beside, elsewhere = [], []
    for note in tree.notes:
        image = next((images[stem] for stem in _image_stems(note) if stem in images), "")
        if image:
            beside.append((note, image))
        elif note.endswith(".json"):
            elsewhere.append(note)
    kinds: dict[str, tuple[str, str]] = {}
    tools = set()
    for note, image in beside:
        tool, labels = _labels(tree.root / note)
        if tool:
            tools.add(tool)
            defects = [label for label in labels if not means_normal(label)]
            kinds[image] = (defects[0] if defects else NORMAL, note if defects and tool == "LabelMe" else "")
    for note in elsewhere:
        table = _json(tree.root / note)
        if _is_coco(table):
            tools.add("COCO")
            kinds |= {name: (kind, mask) for name, kind, mask in _coco(table, note, tree)}
        elif (
            isinstance(table, list)
            and table
            and isinstance(table[0], dict)
            and {"data", "annotations"} <= set(table[0])
        ):
            tools.add("Label Studio")
    if not tools or ("Label Studio" not in tools and all(kind == NORMAL for kind, _ in kinds.values())):
        return None
    return "Label Studio" if "Label Studio" in tools else " and ".join(sorted(tools)), kinds


def _image_stems(note: str) -> Iterator[str]:
    """List where an annotation's image would be: beside it, or in the folder of images beside that of
    labels."""
    stem = stem_of(note)
    yield stem
    yield note  # a.png.json
    parts = stem.split("/")
    for i, part in enumerate(parts[:-1]):
        if part.lower() in LABELS:
            for folder in ("images", "Images", "JPEGImages", "img", ""):
                yield "/".join([*parts[:i], *([folder] if folder else []), *parts[i + 1 :]])


def _labels(path: Path) -> tuple[str, list[str]]:
    """Read the tool that wrote an annotation of one image, and its labels; no tool where it is something
    else."""
    if path.suffix == ".json":
        table = _json(path)
        if isinstance(table, dict) and isinstance(table.get("shapes"), list):
            shapes = [shape for shape in table["shapes"] if isinstance(shape, dict)]
            return "LabelMe", [str(shape.get("label") or ANOMALOUS) for shape in shapes]
        return "", []
    text = ""
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")[:MAX_BYTES]
    if path.suffix == ".xml":
        if "<annotation" in text:
            return ("Pascal VOC", VOC_NAME.findall(text))
        return ("", [])
    lines = [line for line in text.splitlines() if line.strip()]
    if all(YOLO_LINE.fullmatch(line) for line in lines):
        return ("YOLO", [ANOMALOUS for _ in lines])
    return ("", [])


def _json(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= MAX_BYTES:
            return json.loads(path.read_text(encoding="utf-8"))
    return None


def _is_coco(table: Any) -> bool:
    return isinstance(table, dict) and all(
        isinstance(table.get(key), list) for key in ("images", "annotations")
    )


def _coco(table: dict[str, Any], note: str, tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Read the images on which a COCO file marks a defect, each with the first category that is none of good
    ones, and, where all defects are outlined, its mask."""
    rows = {str(row["id"]): row for row in table["images"] if "id" in row}
    known = set(tree.names)
    by_file: dict[str, list[str]] = {}
    for name in tree.names:
        by_file.setdefault(PurePosixPath(name).name, []).append(name)
    base = PurePosixPath(note).parent
    for image_id, defects in coco_defects(table).items():
        row = rows.get(image_id, {})
        file = str(row.get("file_name", "")).replace("\\", "/")
        tried = [(base / folder / file).as_posix() for folder in ("", *sorted(IMAGE_FOLDERS))] + [file]
        same = by_file.get(PurePosixPath(file).name, [])
        name_of_image = next((name for name in tried if name in known), same[0] if len(same) == 1 else "")
        outlined = {"width", "height"} <= set(row) and "/" not in image_id and all(map(is_outlined, defects))
        if name_of_image:
            yield name_of_image, defects[0]["kind"], f"{note}#{image_id}" if outlined else ""
