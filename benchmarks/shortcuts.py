"""What numbers on each set are worth: the shortcut audit of all of them as a table.

    python benchmarks/shortcuts.py
    python benchmarks/shortcuts.py --speed 10000
    python benchmarks/shortcuts.py --planted 200
    python benchmarks/shortcuts.py --marks 1000

Sets are folders below $ANOMALY_FT_DATA and the demo sets. `--speed` measures so many made JPEG files of 512
pixels instead; `--planted` draws so many made sets of each kind, with a shortcut and without, and counts
verdicts; `--marks` puts a mark into the corner of a share of so many training images of each set at most, and
says which are named.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from math import nan
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from planted import marked

from anomaly_ft.analysis.shortcuts import audit_shortcuts
from anomaly_ft.cli.options import look_at
from anomaly_ft.data.checks.appearance import Header, appearance
from anomaly_ft.data.checks.audit import FINE, LITTLE, LOOK, SHIFT, SHORTCUT, TOGETHER, ShortcutAudit
from anomaly_ft.data.checks.marks import find_mark
from anomaly_ft.data.duplicates import thumbnail
from anomaly_ft.data.images import read_image
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.records import Record
from anomaly_ft.run.console import Terminal

FOLDERS = ("mtd", "mvtec_bottle", "mvtec_screw", "visa_macaroni1", "kolektor", "bsdata_ballscrew")
DEMOS = ("demo:elpv-mono", "demo:elpv-poly")
SHARES = (0.0, 0.05, 0.2, 0.5)
GROUPS = (("train", "good", 100), ("test", "good", 30), ("test", "defect", 30))


@click.command()
@click.option("--speed", default=0, metavar="N", help="Measure the audit of N made files.")
@click.option("--planted", default=0, metavar="N", help="Count verdicts on N made sets of each kind.")
@click.option("--marks", default=0, metavar="N", help="Mark a share of N training images of each set.")
def main(speed: int, planted: int, marks: int) -> None:
    """Print a Markdown table."""
    if speed:
        measure(speed)
    elif planted:
        plant(planted)
    elif marks:
        mark_sets(marks)
    else:
        audit_sets()


def sets() -> dict[str, str]:
    """Give where each set lies that is there, by name."""
    data = os.environ.get("ANOMALY_FT_DATA")
    if not data:
        print("folders are left out: ANOMALY_FT_DATA is not set", file=sys.stderr)
    return {name: f"{data}/{name}" for name in FOLDERS if data} | {name: name for name in DEMOS}


def mark_sets(most: int) -> None:
    print("| set | images | " + " | ".join(f"{share:.0%} marked" for share in SHARES) + " |")
    print("|---" * (2 + len(SHARES)) + "|")
    for name, root in sets().items():
        paths = [r.path for r in read_root(root).records if r.split == "train" and not r.anomalous][:most]
        images = [read_image(path) for path in paths]
        plain = np.stack([thumbnail(image) for image in images])
        with_mark = np.stack([thumbnail(Image.fromarray(marked(np.asarray(image)))) for image in images])
        lots = np.random.default_rng(0).random(len(paths))
        cells = [
            _named(np.where((lots < share)[:, None, None], with_mark, plain), lots < share) for share in SHARES
        ]
        print(f"| {name} | {len(paths)} | " + " | ".join(cells) + " |", flush=True)


def _named(thumbnails: NDArray[np.uint8], planted: NDArray[np.bool_]) -> str:
    mark = find_mark(thumbnails)
    if mark is None:
        return "none"
    named = np.isin(np.arange(len(planted)), mark.images)
    if (named == planted).mean() < 0.5:  # of two halves either may be called the marked one
        named = ~named
    right, wrong = int((named & planted).sum()), int((named & ~planted).sum())
    return f"{mark.place}: {right} of {int(planted.sum())}, {wrong} others"


def audit_sets() -> None:
    roots = sets()
    print("| set | images | good test against good training | defective against good test | verdict |")
    print("|---|---|---|---|---|")
    for name, root in roots.items():
        audit = look_at(root, "auto", Terminal()).audit
        if audit is None:
            continue
        images = " / ".join(str(count) for count in audit.counts.values())
        cells = " | ".join(_cell(audit, question) for question in (SHIFT, SHORTCUT))
        print(f"| {name} | {images} | {cells} | {audit.verdict} |", flush=True)


def _cell(audit: ShortcutAudit, question: str) -> str:
    """All together, and the best single property."""
    rows = {row.property: row for row in audit.rows if row.question == question}
    together = rows.pop(TOGETHER)
    alone = max((row for row in rows.values() if row.seen), key=lambda row: row.low)
    return (
        f"{together.auroc:.3f} ({together.low:.3f} to {together.high:.3f}); "
        f"{alone.property} {alone.auroc:.3f} ({alone.low:.3f} to {alone.high:.3f})"
    )


def measure(count: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for split, kind, share in (("train", "good", 0.8), ("test", "good", 0.1), ("test", "defect", 0.1)):
            target = Path(folder, split, kind)
            target.mkdir(parents=True)
            for i in range(round(share * count)):
                coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
                fine = np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC)).astype(np.int16)
                noisy = np.clip(fine + rng.integers(-8, 9, fine.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(target / f"{i:05}.jpg", quality=90)
        started, worked = time.perf_counter(), time.process_time()
        audit = look_at(folder, "auto", Terminal()).audit
        seconds = time.perf_counter() - started
        cores = len(os.sched_getaffinity(0))
        busy = time.process_time() - worked
        print(f"{count} images, {cores} cores: {seconds:.1f} s, {busy:.1f} s of computing")
        print(audit.sentence if audit else "no audit")


def plant(sets: int) -> None:
    print("| planted | fine | look at this | numbers on this split say little |")
    print("|---|---|---|---|")
    for name in (
        "nothing",
        "dark spot",
        "half a deviation",
        "one deviation",
        "two deviations",
        "four deviations",
    ):
        counts = Counter(_made(name, seed).verdict for seed in range(sets))
        print(f"| {name} | " + " | ".join(str(counts[v]) for v in (FINE, LOOK, LITTLE)) + " |", flush=True)


SHIFTS = {"half a deviation": 0.5, "one deviation": 1.0, "two deviations": 2.0, "four deviations": 4.0}


def _made(name: str, seed: int) -> ShortcutAudit:
    """The audit of a made set whose defective images are brighter, or have a dark spot; brightness of each
    image has a deviation of 10 levels."""
    rng = np.random.default_rng(seed)
    header = Header((96, 96), "RGB", False, False, 9000, "PNG", 0.0, "none", nan)
    records, looks = [], []
    for split, kind, count in GROUPS:
        for i in range(count):
            light = 120 + 10 * (rng.normal() + SHIFTS.get(name, 0.0) * (kind == "defect"))
            image = np.clip(rng.normal(light, 12, (96, 96, 3)), 0, 255).astype(np.uint8)
            if name == "dark spot" and kind == "defect":
                y, x = rng.integers(0, 72, 2)
                image[y : y + 24, x : x + 24] = 20
            record = Record(Path(), f"{split}/{kind}/{i:03}.png", "train" if split == "train" else "test", kind)
            records.append(record)
            varied = replace(header, file_bytes=int(9000 + 300 * rng.normal()))
            looks.append(appearance(record.name, varied, image))
    return audit_shortcuts(records, looks)


if __name__ == "__main__":
    main()
