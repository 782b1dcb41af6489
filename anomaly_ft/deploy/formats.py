"""The formats of an export: each function writes one, reads it back, and returns what the file computes.

What comes back takes normal decoded images, uint8 `(n, height, width, 3)`, and gives what the file gives for
them: score, map and decision, or for a bare encoder the feature map of each level. `parity` compares that
with the detector. The libraries beyond torch come with the extras `onnx` and `openvino`.
"""

import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from anomaly_ft import __version__
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.deploy.graph import OUTPUTS, Computes, DetectorGraph, EncoderGraph, trace
from anomaly_ft.errors import RunError
from anomaly_ft.model.encoder.encoder import load_with_timm
from anomaly_ft.model.loading import LoadedRun

Writer = Callable[[LoadedRun, Path, bool], Computes]

OPSET = 18  # the first with antialiasing Resize and reductions that take axes as input; ONNX Runtime >= 1.14
PROTOBUF_LIMIT = 2**31 - 2**24  # bytes in one ONNX file, with room for what is not weights
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "onnx", "onnxscript")}


def write_timm(run: LoadedRun, folder: Path, raw: bool) -> Computes:
    """Write `config.json` and `model.safetensors`, as timm's `local-dir:` and a hub expect them."""
    del raw
    original = run.detector.encoder
    original.save(folder, resize=run.decoder.resize)
    encoder = load_with_timm(folder, original.levels, original.image_size)
    return lambda pixels: _no_grad(encoder, _raw(run, pixels).permute(0, 3, 1, 2))


def write_pt2(run: LoadedRun, folder: Path, raw: bool) -> Computes:
    """Write `detector.pt2`, the whole detector as torch.export has it."""
    return _write_pt2(run, folder / "detector.pt2", DetectorGraph(run.detector, raw=raw))


def write_encoder_pt2(run: LoadedRun, folder: Path, raw: bool) -> Computes:
    """Write `encoder.pt2`, the bare encoder."""
    return _write_pt2(run, folder / "encoder.pt2", EncoderGraph(run.detector.encoder, raw=raw))


def write_onnx(run: LoadedRun, folder: Path, raw: bool) -> Computes:
    """Write `detector.onnx`, the whole detector."""
    return _write_onnx(run, folder / "detector.onnx", DetectorGraph(run.detector, raw=raw), OUTPUTS)


def write_encoder_onnx(run: LoadedRun, folder: Path, raw: bool) -> Computes:
    """Write `encoder.onnx`, the bare encoder; outputs have the names of the levels."""
    return _write_onnx(
        run, folder / "encoder.onnx", EncoderGraph(run.detector.encoder, raw=raw), run.detector.encoder.levels
    )


def write_openvino(run: LoadedRun, folder: Path, raw: bool) -> Computes:
    """Write `detector.xml` and `detector.bin` in float32, made from the ONNX graph."""
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "detector.onnx"
        _save_onnx(run, path, DetectorGraph(run.detector, raw=raw), OUTPUTS)
        convert_to_openvino(path, folder / "detector.xml")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # else some processors compute in bfloat16
    compiled = openvino.Core().compile_model(folder / "detector.xml", "CPU", settings)

    def compute(pixels: Pixels) -> list[Tensor]:
        answer = compiled(_input(run, pixels, raw))
        return [torch.from_numpy(answer[name]) for name in OUTPUTS]

    return compute


def convert_to_openvino(onnx_file: Path, xml: Path) -> None:
    """Write an ONNX file as OpenVINO's `xml` and the `.bin` beside it, with names that depend on it alone."""
    import openvino

    model = openvino.Core().read_model(onnx_file)
    for i, operation in enumerate(model.get_ordered_ops()):  # else names count all that a process has read
        if re.fullmatch(rf"{operation.get_type_name()}_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}_{i}")
    with _named_full_disk(xml):
        openvino.save_model(model, xml, compress_to_fp16=False)


WRITERS: dict[str, Writer] = {
    "timm": write_timm,
    "onnx": write_onnx,
    "pt2": write_pt2,
    "openvino": write_openvino,
    "encoder-onnx": write_encoder_onnx,
    "encoder-pt2": write_encoder_pt2,
}
GIVES_LEVELS = frozenset({"timm", "encoder-onnx", "encoder-pt2"})


def refuse_if_missing(form: str) -> None:
    """Raise a RunError when a library that the format needs is not installed."""
    extra = form.removeprefix("encoder-")
    missing = [name for name in NEEDED.get(extra, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"--format {form}: {', '.join(missing)} not installed; pip install {' '.join(missing)}")


def _write_pt2(run: LoadedRun, path: Path, graph: DetectorGraph | EncoderGraph) -> Computes:
    written = io.BytesIO()  # on a full disk torch's own writer ends the process
    torch.export.save(_traced(graph), written)
    path.write_bytes(written.getbuffer())
    module = torch.export.load(path).module()
    return lambda pixels: _no_grad(module, torch.from_numpy(_input(run, pixels, graph.raw)))


def _traced(graph: DetectorGraph | EncoderGraph) -> ExportedProgram:
    with _named_failure(graph, "torch.export"):
        return trace(graph)


@contextmanager
def _named_failure(graph: DetectorGraph | EncoderGraph, target: str) -> Iterator[None]:
    """Turn a converter's failure into a RunError; converters raise nearly anything at an operation they do
    not know, and a user can choose another format.

    Raises:
        RunError: in place of that, in one line.
    """
    try:
        yield
    except Exception as cause:
        encoder = graph.encoder if isinstance(graph, EncoderGraph) else graph.detector.encoder
        why = (str(cause.__cause__ or cause).splitlines() or [type(cause).__name__])[0]
        others = "pt2, encoder-pt2 or timm" if target == "ONNX" else "timm"
        model = type(encoder.model).__name__
        raise RunError(
            f"--format: {model} cannot be converted to {target} ({why:.200}); use {others}"
        ) from cause


@contextmanager
def _named_full_disk(path: Path) -> Iterator[None]:
    """Turn OpenVINO's RuntimeError for a full disk into an OSError."""
    try:
        yield
    except RuntimeError as cause:
        raise OSError(f"{path}: {str(cause).splitlines()[0]}") from cause


def _write_onnx(
    run: LoadedRun, path: Path, graph: DetectorGraph | EncoderGraph, outputs: Sequence[str]
) -> Computes:
    import onnxruntime

    _save_onnx(run, path, graph, outputs)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(pixels: Pixels) -> list[Tensor]:
        answer = session.run(list(outputs), {"image": _input(run, pixels, graph.raw)})
        return [torch.from_numpy(values) for values in answer]

    return compute


def _save_onnx(run: LoadedRun, path: Path, graph: DetectorGraph | EncoderGraph, outputs: Sequence[str]) -> None:
    """Write a checked ONNX file whose bytes depend on the graph alone: no traces of the files that made it."""
    import onnx

    size = sum(4 * tensor.numel() for tensor in graph.state_dict().values())
    if size > PROTOBUF_LIMIT:
        raise RunError(
            f"--format: {size / 2**30:.1f} GiB of weights do not fit into one ONNX file (2 GiB); use pt2, or "
            "train with a smaller expert.gaussian.grid"
        )
    traced = _traced(graph)
    with _named_failure(graph, "ONNX"):
        program = torch.onnx.export(
            traced,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(outputs),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    _anonymise(model)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in describe(run).items()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _anonymise(model: Any) -> None:
    """Take out what the exporter says about source files, and name the free axis."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    for thing in [*graph.node, *graph.initializer, *values, graph]:
        del thing.metadata_props[:]
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        axis = value.type.tensor_type.shape.dim[0]
        axis.Clear()
        axis.dim_param = "batch"


def describe(run: LoadedRun) -> Mapping[str, Any]:
    """Describe what a program has to know about a graph that it cannot see."""
    encoder = run.detector.encoder
    return {
        "anomaly_ft": __version__,
        "score": run.score,
        "threshold": run.point.threshold,
        "image_size": encoder.image_size,
        "resize": run.decoder.resize,
        "mean": [round(value, 6) for value in (encoder.mean.flatten() / 255).tolist()],
        "std": [round(value, 6) for value in (encoder.std.flatten() / 255).tolist()],
        "levels": list(encoder.levels),
    }


def _raw(run: LoadedRun, pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(run.compute.fabric.device)


def _input(run: LoadedRun, pixels: Pixels, raw: bool) -> NDArray[Any]:
    """Convert decoded images to what the graph takes; see `DetectorGraph`."""
    if raw:
        return np.ascontiguousarray(pixels)
    encoder = run.detector.encoder
    mean, std = (buffer.flatten().cpu().numpy() for buffer in (encoder.mean, encoder.std))
    return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


def _no_grad(module: Callable[[Tensor], Sequence[Tensor]], image: Tensor) -> Sequence[Tensor]:
    with torch.no_grad():
        return module(image)
