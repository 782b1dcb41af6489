"""What the data side costs: listing and checking names against reading headers, decoding against bare loops,
epochs against tensors in memory, peak memory.

    python benchmarks/data.py [ROOT] [--images 20000] [--threads 1] [--clock cpu] [--only listing]

ROOT: a data root with photographs (default: generated ones). Takes about 3 minutes. Nothing is kept. On a
machine with other work to do, count processor time (`--clock cpu`): with one thread it is what the wall clock
would say on a quiet one, but for waiting for the disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from speed_parts.memory import peak_mib

from anomaly_ft.data.dataset import Options, load_dataset, read_records
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.loaded import decode_all
from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import Shares

BATCH = 16
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
SHARES = Shares(val=0.15, calibration=0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", default="")
    parser.add_argument("--images", type=int, default=20000, help="of the larger set for peak memory")
    parser.add_argument("--photographs", type=int, default=200, help="at most, of those decoded")
    parser.add_argument("--image-size", type=int, default=224, help="to which they are resized")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0", help="of an epoch of inference")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--peak", nargs=2, metavar=("ROOT", "TORCH"), help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["listing"], help="measure nothing else")
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.peak[0], with_torch=options.peak[1] == "torch")))
        return
    listing(options)
    if options.only:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "photographs"
        root = options.root or str(generate(made, options.photographs, side=512, ending=".jpg"))
        decoding(root, options)
        epochs(root, options, Path(folder) / "cache")
        memory(Path(folder), options.images)


def generate(folder: Path, count: int, *, side: int, ending: str = ".png") -> Path:
    """Smooth random pictures, all different."""
    folder.mkdir(parents=True)
    for i in range(count):
        spots = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:06}{ending}")
    return folder


def best(contestants: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, float]:
    """Least seconds of each, in turns: what else the machine does only ever adds."""
    clock = CLOCKS[options.clock]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, work in contestants.items():
            started = clock()
            work()
            seconds[name].append(clock() - started)
    return {name: min(values) for name, values in seconds.items()}


def listing(options: argparse.Namespace) -> None:
    """5,000 files in nested folders, MVTec's layout with masks: from a root to checked records and headers."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        content = {}
        for ending in ("jpg", "png"):
            Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(root / f"image.{ending}")
            content[ending] = (root / f"image.{ending}").read_bytes()
            (root / f"image.{ending}").unlink()
        places = [f"train/good/line {i % 10}/day {i % 7}" for i in range(3400)]
        places += [
            f"{split}/type {i % 8}/line {i % 10}" for i in range(800) for split in ("test", "ground_truth")
        ]
        for i, place in enumerate(places):
            tail = "_mask.png" if place.startswith("ground_truth") else ".jpg"
            number = i - 1 if tail == "_mask.png" else i
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / f"{number:05}{tail}").write_bytes(content[tail[-3:]])
        paths = sorted(path for path in root.rglob("*") if path.is_file())

        def headers() -> None:
            for path in paths:
                with Image.open(path) as image:
                    assert image.size

        def scan() -> None:
            reading = read_records(str(root))
            assert sum(bool(record.mask_name) for record in reading.records) == 800
            assert not reading.unused

        def both() -> None:
            scan()
            headers()

        found = best({"headers alone": headers, "listed and checked": scan, "both": both}, options)
        print(f"{len(paths)} files in nested folders")
        for title, seconds in found.items():
            print(f"  {title:<18} {seconds:7.3f} s  {seconds / found['headers alone']:.2f} x headers")


def decoding(root: str, options: argparse.Namespace) -> None:
    """Decoding and resizing beside bare loops."""
    import torch
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional

    threads, size = options.threads, options.image_size
    records = read_records(root).records[: options.photographs]

    def bare(records: Iterable[Record]) -> None:
        for record in records:
            with Image.open(record.path) as image:
                np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))

    def with_torchvision(records: Iterable[Record]) -> None:
        for record in records:
            image = decode_image(str(record.path), ImageReadMode.RGB)
            functional.resize(image, [size, size], functional.InterpolationMode.BICUBIC, antialias=True)

    torch.set_num_threads(threads)
    contestants: dict[str, Callable[[], object]] = {
        "bare PIL loop": lambda: bare(records),
        "torchvision": lambda: with_torchvision(records),
        "ours, 1 thread": lambda: list(decode_all(records, Decoder(size))),
    }
    if threads > 1:
        contestants[f"ours, {threads} threads"] = lambda: list(
            decode_all(records, Decoder(size), threads=threads)
        )
    found = best(contestants, options)
    print(f"decode and resize to {size}, {len(records)} images of {root}")
    for name, seconds in found.items():
        share = found["bare PIL loop"] / seconds
        print(f"  {name:<18} {len(records) / seconds:7.0f} img/s  {share:.2f} x bare")


def epochs(root: str, asked: argparse.Namespace, cache: Path) -> None:
    """An epoch after the first: batches in random order through the encoder, and without it."""
    import timm
    import torch

    torch.set_num_threads(asked.threads)
    model = timm.create_model(asked.encoder, num_classes=0).eval().to(memory_format=torch.channels_last)
    pixels = {}
    for kind in ("memory", "disk", "none"):
        options = Options(cache=kind, cache_dir=str(cache))
        data = load_dataset(
            root, image_size=asked.image_size, shares=SHARES, threads=asked.threads, options=options
        )
        pixels[kind] = data.normals("train").pixels
    tensor = torch.from_numpy(np.array(pixels["memory"])).permute(0, 3, 1, 2)
    order = np.random.default_rng(0).permutation(len(tensor))
    chunks = np.split(order, range(BATCH, len(order), BATCH))

    def epoch(batch: Callable[[np.ndarray], torch.Tensor], *, work: bool) -> None:
        with torch.inference_mode():
            for chunk in chunks:
                images = batch(chunk)
                if work:
                    model(images.float() / 255)

    batches: dict[str, Callable[[np.ndarray], torch.Tensor]] = {
        "tensors in memory": lambda chunk: tensor[chunk]
    }
    for kind, rows in pixels.items():
        batches[f"cache: {kind}"] = lambda chunk, rows=rows: torch.from_numpy(
            np.ascontiguousarray(rows[chunk])
        ).permute(0, 3, 1, 2)
    for work, title in ((True, f"an epoch of inference with {asked.encoder}"), (False, "fetching alone")):
        found = best({n: lambda b=b, work=work: epoch(b, work=work) for n, b in batches.items()}, asked)
        base = found["tensors in memory"]
        print(f"{title}, {len(order)} images, batches of {BATCH}")
        for name, seconds in found.items():
            print(f"  {name:<18} {len(order) / seconds:7.0f} img/s  {seconds / base - 1:+.1%} time")


def memory(folder: Path, images: int) -> None:
    """Peak memory of reading a set and one epoch over it without a cache, each in a process of its own."""
    roots = {n: generate(folder / f"set{n}", n, side=32) for n in (images // 10, images)}
    for torch_too in ("torch", "bare"):
        found = {}
        for count, root in roots.items():
            command = [sys.executable, __file__, "--peak", str(root), torch_too]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[count] = json.loads(done.stdout)["mib"]
        small, large = found.values()
        loaded = "torch loaded, as in training" if torch_too == "torch" else "data side alone"
        print(f"peak memory, cache off, {loaded}")
        for count, mib in found.items():
            print(f"  {count:>6} images       {mib:7.1f} MiB")
        print(f"  growth              {large / small - 1:+.1%}")


def peak(root: str, *, with_torch: bool) -> dict[str, float]:
    if with_torch:
        import torch  # noqa: F401
    data = load_dataset(root, image_size=32, shares=SHARES, threads=1, options=Options(cache="none"))
    fit = data.normals("train").pixels
    for start in range(0, len(fit), BATCH):
        fit[start : start + BATCH].sum()
    return {"mib": peak_mib()}


if __name__ == "__main__":
    main()
