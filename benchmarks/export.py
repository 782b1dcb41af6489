"""How fast is a detector in each form it can be taken away in, and beside anomalib's exported PaDiM?

    python benchmarks/export.py RUN --output exports
    python benchmarks/export.py RUN --output exports --anomalib venv-anomalib/bin/python --batch 1

All get the same made pixels in batches, already decoded, and normalise them within; all give score and map at
the size of the image. They take turns; of each round the ratio to eager PyTorch is taken, of the ratios the
median. PaDiM is fitted on the good images of the run's own data, on the run's encoder, by anomalib (see
`beside_anomalib.py`) and written by anomalib's own export. The ONNX files of both run in the same ONNX Runtime.
What is not installed is left out, saying so; the exit code is 3 where anomalib was asked for and is not there.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from beside_anomalib import ABSENT, export_padim, installed
from sets import MISSING
from speed_parts.clock import CLOCKS, in_turns, show_ratios

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.deploy.formats import refuse_if_missing, write_onnx, write_openvino, write_pt2
from anomaly_ft.deploy.graph import DetectorGraph
from anomaly_ft.errors import RunError
from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.run.open import open_run

Work = Callable[[Pixels], object]
EAGER = "eager PyTorch, float32"
PADIM = "anomalib PaDiM, ONNX Runtime"


def eager(run: LoadedRun, precision: str) -> Work:
    """The detector as it is, in this process."""
    graph, compute = DetectorGraph(run.detector, raw=True), make_compute(precision=precision)

    def work(pixels: Pixels) -> object:
        with torch.inference_mode(), compute.fabric.autocast():
            return graph(torch.from_numpy(pixels))

    return work


def onnx_file(path: Path, threads: int, prepare: Callable[[Pixels], Any]) -> Work:
    """An ONNX file in ONNX Runtime; `prepare` makes of pixels what it takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: prepare(pixels)})


def openvino_file(path: Path, threads: int) -> Work:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return openvino.Core().compile_model(path, "CPU", settings)


def contestants(
    run: LoadedRun, root: Path, folder: Path, anomalib: str, *, forms: str, threads: int
) -> dict[str, Work]:
    """Every one of the forms that can be had here, by name."""
    found = {EAGER: eager(run, "fp32"), "eager PyTorch, bfloat16": eager(run, "bf16")}
    try:
        if "pt2" in forms:
            found["torch.export"] = write_pt2(run, folder, True)
        if "onnx" in forms:
            refuse_if_missing("onnx")
            write_onnx(run, folder, True)
            found["ONNX Runtime"] = onnx_file(folder / "detector.onnx", threads, lambda pixels: pixels)
        if "openvino" in forms:
            refuse_if_missing("openvino")
            write_openvino(run, folder, True)
            found["OpenVINO"] = openvino_file(folder / "detector.xml", threads)
    except RunError as missing:
        click.echo(f"left out: {missing}", err=True)
    if not installed(anomalib):
        click.echo(ABSENT, err=True)
        return found
    run.detector.encoder.save(folder / "encoder", resize=run.decoder.resize)
    work = folder / "padim"
    work.mkdir(exist_ok=True)
    padim = export_padim(anomalib, root, folder / "encoder", work.resolve())
    found[PADIM] = onnx_file(
        padim, threads, lambda pixels: np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
    )
    return found


def through(work: Work, batches: Sequence[Pixels]) -> None:
    for pixels in batches:
        work(pixels)


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the exports.")
@click.option("--anomalib", default="", help="python of the environment that has anomalib")
@click.option("--forms", default="pt2,onnx,openvino", show_default=True, help="Beside eager PyTorch.")
@click.option("--images", default=64, show_default=True, help="In a round.")
@click.option("--batch", default=32, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--clock", default="wall", show_default=True, type=click.Choice(list(CLOCKS)))
def main(folder: Path, output: Path, anomalib: str, **options: Any) -> None:
    """Write the exports of RUN and time them in turn."""
    images, batch, threads = (options[name] for name in ("images", "batch", "threads"))
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    recipe, run = open_run(folder)
    root = Path(recipe.data.root)
    forms = contestants(run, root, output, anomalib, forms=options["forms"], threads=threads)
    side = run.detector.encoder.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    batches = [pixels[start : start + batch] for start in range(0, images, batch)]
    rounds = {name: partial(through, work, batches) for name, work in forms.items()}
    with run.detector.encoder.folded():  # for the eager ones, as `predict` does
        seconds = in_turns(rounds, options["turns"], CLOCKS[options["clock"]])
    how = f"{images} images of {side} pixels in batches of {batch}, {threads} thread(s)"
    how += f", {options['clock']} seconds"
    show_ratios(how, seconds, EAGER, images)
    if anomalib and PADIM not in forms:
        sys.exit(MISSING)


if __name__ == "__main__":
    main()
