"""Run the studies of `analysis` on files and on runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anomaly_ft.analysis.shortcuts import audit_shortcuts
from anomaly_ft.data.checks.appearance import Appearance, appearance, read_header
from anomaly_ft.data.checks.audit import ShortcutAudit
from anomaly_ft.data.checks.problems import in_parallel
from anomaly_ft.data.checks.report import Progress, Report
from anomaly_ft.data.dataset import Dataset
from anomaly_ft.data.pixels import Pixels, Resize
from anomaly_ft.data.records import Record


def with_audit(report: Report) -> Report:
    """Add the shortcut audit of the images that could be read to a report; without test images it stays."""
    if "test" not in report.counts:
        return report
    return replace(report, audit=audit_shortcuts(report.readable, report.appearances))


def audit_dataset(
    data: Dataset, resize: Resize, *, threads: int = 1, progress: Progress | None = None
) -> ShortcutAudit | None:
    """Audit images that a run has decoded for shortcuts; their files are opened for headers alone.

    Pixels are those that the run sees, so that sizes and ranges set in a recipe show. None without test
    images. A file that has gone in the meantime is left out.
    """
    if not len(data.test):
        return None
    looks: list[Appearance] = []
    records: list[Record] = []
    for images in (data.undivided, data.test):

        def look(
            i: int, pixels: Pixels = images.pixels, records: Sequence[Record] = images.records
        ) -> Appearance:
            header = read_header(records[i].path)
            return appearance(records[i].name, header, uncovered(pixels[i], header.size, resize))

        results = in_parallel(look, range(len(images)), threads)
        seen = progress(images.records, "auditing the split", len(images)) if progress else images.records
        for record, result in zip(seen, results, strict=True):
            if isinstance(result, Appearance):
                records.append(record)
                looks.append(result)
    return audit_shortcuts(records, looks)


def uncovered(pixels: Pixels, size: tuple[int, int], resize: Resize) -> Pixels:
    """Crop the black bars that letterboxing put around a resized image `(side, side, 3)`.

    Args:
        pixels: the image.
        size: width and height before it was resized.
        resize: how it was resized.
    """
    if resize != "letterbox":
        return pixels
    side = len(pixels)
    wide, tall = (max(1, round(each * side / max(size))) for each in size)
    left, top = (side - wide) // 2, (side - tall) // 2
    return np.ascontiguousarray(pixels[top : top + tall, left : left + wide])
