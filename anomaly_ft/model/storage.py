"""A detector on disk: `encoder/` in timm's layout or `adapter/` in peft's, `detector.safetensors` and
`detector.json`.

Tensors and JSON only; nothing in these files can run code. `format` in detector.json counts up whenever
an older anomaly_ft could no longer read what is written; `anomaly_ft` beside it is the version that wrote it.
From the first release on every older format is still read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomaly_ft import __version__
from anomaly_ft.errors import RunError

FORMAT = 1


def write_detector(folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the tensors of a detector, and a description for readers of either kind.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    plain = {key: value.contiguous().cpu() for key, value in tensors.items()}
    try:
        save_file(plain, folder / "detector.safetensors")
    except SafetensorError as cause:  # its name for a full disk
        raise OSError(f"{folder}: {cause}") from cause
    described = {"format": FORMAT, "anomaly_ft": __version__, **description}
    (folder / "detector.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read_detector(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read description and tensors of a run folder, as they stand there.

    Raises:
        RunError: files that are missing, damaged, or of a format this version does not know.
    """
    description = read_description(folder)
    try:
        tensors = load_file(_present(folder / "detector.safetensors"))
    except (OSError, ValueError, SafetensorError) as cause:
        raise RunError(f"{folder}: the stored detector is damaged: {cause}") from cause
    # copied, for in a file they lie at any address, and products of matrices round by that
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return description, tensors


def read_description(folder: Path) -> dict[str, Any]:
    """Read `detector.json` of a run folder. Raises as `read_detector` does."""
    try:
        description = json.loads(_present(folder / "detector.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise RunError(f"{folder}: the stored detector is damaged: {cause}") from cause
    _check_format(folder, description)
    return dict(description)


def check_shapes(tensors: Mapping[str, Tensor], widths: Mapping[str, int]) -> None:
    """Raise a ValueError unless each level has a Gaussian of its width."""
    for i, (level, width) in enumerate(widths.items()):
        shapes = [tuple(tensors[f"{name}_{i}"].shape) for name in ("mean", "whitening")]
        if shapes != [(width,), (width, width)]:
            raise ValueError(f"level {level} has {width} dimensions, its Gaussian {shapes}")


def check_grid(name: str, mean: Tensor, groups: tuple[int, ...], grid: int, smoothing: float) -> None:
    """Raise a ValueError unless there are so many Gaussians, and the blur stays within the grid."""
    if mean.shape[:-1] != groups or not 0 <= 3 * smoothing < grid:
        raise ValueError(f"the dense {name} does not fit a grid of {grid!r:.40} smoothed by {smoothing!r:.40}")


def _present(file: Path) -> Path:
    if not file.is_file():
        raise RunError(f"{file.parent} is not a finished run: {file.name} is missing")
    return file


def _check_format(folder: Path, description: Any) -> None:
    """Refuse what a newer version wrote, or something else altogether, naming both versions."""
    about = description if isinstance(description, dict) else {}
    number, writer = about.get("format"), about.get("anomaly_ft", "unknown")
    if type(number) is int and 1 <= number <= FORMAT:
        return
    readable = f"format {FORMAT}" if FORMAT == 1 else f"formats 1 to {FORMAT}"
    advice = ""
    if type(number) is int and number > FORMAT:
        advice = "; install a newer anomaly_ft, or train again if the run is of before the first release"
    raise RunError(
        f"{folder}: detector.json has format {number!r:.40}, written by anomaly_ft {writer!s:.40}; this is "
        f"anomaly_ft {__version__}, which reads {readable}{advice}"
    )
