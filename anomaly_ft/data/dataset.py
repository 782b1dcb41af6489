"""A data root, read, decoded and split: what a run works on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from anomaly_ft.data.images import Images, load_images
from anomaly_ft.data.layouts import read_layout
from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import Split, split_normals

Part = Literal["fit", "watch", "calibrate"]
PARTS: tuple[Part, ...] = ("fit", "watch", "calibrate")
Progress = Callable[[Iterable[Record], str, int], Iterable[Record]]  # items, description, total


@dataclass(frozen=True)
class Dataset:
    """Decoded images: normal ones to train with, split three ways, and all kinds to test with."""

    layout: str
    train: Images
    test: Images  # empty where the root has no test split
    split: Split

    def normals(self, part: Part) -> Images:
        """The normal training images that serve one purpose."""
        chosen = list(getattr(self.split, part))
        return Images(self.train.pixels[chosen], tuple(self.train.records[i] for i in chosen))

    @property
    def skipped(self) -> tuple[tuple[Record, str], ...]:
        """Files that could not be read, and why."""
        return self.train.skipped + self.test.skipped

    def manifest(self) -> list[dict[str, Any]]:
        """A row for each image used: `image_path, label_index, split, mask_path`, paths as in the root."""
        rows: list[tuple[str, Record]] = [
            (part, self.train.records[i]) for part in PARTS for i in getattr(self.split, part)
        ]
        rows += [("test", record) for record in self.test.records]
        return [
            {
                "image_path": record.name,
                "label_index": int(record.anomalous),
                "split": part,
                "mask_path": record.mask_name,
            }
            for part, record in rows
        ]


def load_dataset(
    root: str,
    *,
    image_size: int,
    watch: float,
    calibrate: float,
    seed: int,
    threads: int = 1,
    progress: Progress = lambda items, description, total: items,
) -> Dataset:
    """Read everything below `root`; unreadable files are set aside, see `Dataset.skipped`.

    Raises:
        DataError: nothing usable, an unknown layout, or too few normal images for the shares.
    """
    layout, records = read_layout(root)

    def load(part: str) -> Images:
        wanted = [record for record in records if record.split == part]
        seen = progress(wanted, f"reading {part} images", len(wanted))
        return load_images(wanted, image_size, threads=threads, progress=seen)

    train = load("train")
    split = split_normals(train.records, watch=watch, calibrate=calibrate, seed=seed)
    return Dataset(layout, train, load("test"), split)
