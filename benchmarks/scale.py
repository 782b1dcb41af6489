"""Does `anomaly-ft predict` keep its memory on many images, here and on Ray, and does it go on after a kill?

    python benchmarks/scale.py runs/bottle-001 --output scale --counts 1000,10000,100000
    python benchmarks/scale.py runs/bottle-001 --output scale --counts 1000,10000 --engine ray

Writes folders of small images (64 different ones under as many names as asked for), scores each with the run,
kills the largest at a third of its rows, and lets it go on. Prints a row for each pass: images, seconds, images
a second, and the most memory that the process and all that it started took at once, in MiB (resident, shared
pages counted for each of them). Ends with an error where a path has no row, or two.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import psutil
from PIL import Image

DIFFERENT = 64
SIDE = 64
OFTEN = 0.2  # seconds between looks at the memory


def make_images(folder: Path, count: int) -> Path:
    """Write so many images, most of them further names of the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        path, same = folder / f"{i:07d}.png", folder / f"{i % DIFFERENT:07d}.png"
        if path.exists():
            continue
        if path == same:
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        else:
            path.hardlink_to(same)
    return folder


def rows_of(path: Path) -> int:
    """Count the rows of a table that is being written."""
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def refuse_gaps(table: Path, images: Path) -> None:
    """End with an error unless a table has one row for each image of a folder, in their order."""
    if pd.read_csv(table)["path"].tolist() != sorted(str(path) for path in images.iterdir()):
        raise click.ClickException(f"{table}: not a row for each image")


def resident(process: psutil.Process) -> float:
    """Add up the resident memory of a process and of all that it started, in MiB."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def score(command: list[str], stop: Callable[[], bool]) -> tuple[float, float]:
    """Run a command, killed as soon as `stop` says so; seconds, and MiB at most."""
    started, most = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            most = max(most, resident(process))
            if stop():
                os.kill(running.pid, signal.SIGKILL)
                break
            time.sleep(OFTEN)
        code = running.wait()
    if code not in {0, -signal.SIGKILL}:
        raise click.ClickException(f"{' '.join(command)} ended with {code}")
    return time.perf_counter() - started, most


def passes(run: Path, output: Path, counts: list[int], engine: str) -> Iterator[dict[str, str]]:
    """Score each folder, and the largest once more with a kill; a row for each pass."""
    for count in counts:
        images, to = make_images(output / f"images-{count}", count), output / f"{engine}-{count}"
        command = [sys.executable, "-m", "anomaly_ft", "predict", str(run), str(images), "--engine", engine]
        table = to / "predictions.csv"
        for killed in (False, True) if count == max(counts) else (False,):
            table.unlink(missing_ok=True)
            seconds, most = score(
                [*command, "--output", str(to)],
                lambda table=table, third=count // 3: killed and rows_of(table) > third,  # noqa: B023 - used at once
            )
            done = rows_of(table)
            if killed:
                more, again = score([*command, "--output", str(to), "--resume"], lambda: False)
                seconds, most = seconds + more, max(most, again)
            refuse_gaps(table, images)
            yield {
                "engine": engine + (f", killed after {done} rows, gone on" if killed else ""),
                "images": str(count),
                "seconds": f"{seconds:.0f}",
                "images a second": f"{count / seconds:.0f}",
                "MiB at most": f"{most:.0f}",
            }


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for images and rows.")
@click.option("--counts", default="1000,10000,100000", show_default=True, help="Images of each folder.")
@click.option("--engine", type=click.Choice(["in-process", "ray"]), default="in-process", show_default=True)
def main(run: Path, output: Path, counts: str, engine: str) -> None:
    """Print a Markdown table, a row for each pass."""
    for i, row in enumerate(passes(run, output, [int(count) for count in counts.split(",")], engine)):
        if not i:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
