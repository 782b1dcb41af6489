"""A detector on disk: `encoder/` in timm's layout, `detector.safetensors` and `detector.json`.

Tensors and JSON only; nothing in these files can run code. `format` in detector.json counts up whenever
an older anomaly_ft could no longer read what is written; `anomaly_ft` beside it is the version that wrote it.
Every older format is still read: `tests/fixtures` keeps a folder of each.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from anomaly_ft import __version__
from anomaly_ft.errors import RunError
from anomaly_ft.model.detector import Detector, DetectorSettings
from anomaly_ft.model.encoder import load_encoder
from anomaly_ft.model.gaussian import Gaussian

FORMAT = 1


def save_detector(detector: Detector, folder: Path, *, about: dict[str, Any]) -> None:
    """Write the detector below `folder`; `about` is stored beside the tensors for a reader."""
    detector.encoder.save(folder / "encoder")
    tensors = {
        key: value.contiguous().cpu()
        for key, value in detector.state_dict().items()
        if not key.startswith("encoder.")
    }
    save_file(tensors, folder / "detector.safetensors")
    description = {
        "format": FORMAT,
        "anomaly_ft": __version__,
        "encoder": json.loads((folder / "encoder" / "config.json").read_text(encoding="utf-8"))["architecture"],
        "image_size": detector.encoder.image_size,
        "levels": list(detector.encoder.levels),
        "settings": asdict(detector.settings),
        "units": "Mahalanobis distances (fused: a sum of two standard scores), higher = more anomalous",
        "input": "RGB, image_size x image_size, values 0..255; the encoder's config has mean and std",
        **about,
    }
    (folder / "detector.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_detector(folder: Path) -> Detector:
    """The detector of a run folder.

    Raises:
        RunError: files that are missing, damaged, or of a format this version does not know.
    """
    for name in ("detector.json", "detector.safetensors"):
        if not (folder / name).is_file():
            raise RunError(f"{folder} is not a finished run: {name} is missing")
    try:
        description = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "detector.safetensors")
    except (OSError, ValueError, SafetensorError) as cause:
        raise RunError(f"{folder}: the stored detector is damaged: {cause}") from cause
    _check_format(folder, description)
    try:
        encoder = load_encoder(
            description["encoder"],
            f"local-dir:{folder / 'encoder'}",
            levels=description["levels"],
            image_size=description["image_size"],
        )
        settings = DetectorSettings(**description["settings"])
        names = [*(f"_{i}" for i in range(len(encoder.levels))), "dense"]
        detector = Detector(encoder, settings, [_gaussian(tensors, name) for name in names])
        detector.location.copy_(tensors["location"])
        detector.spread.copy_(tensors["spread"])
    except (KeyError, TypeError, RuntimeError) as cause:
        raise RunError(
            f"{folder}: detector.json and detector.safetensors do not fit together: {cause}"
        ) from cause
    return detector


def _check_format(folder: Path, description: Any) -> None:
    """Refuse what a newer version wrote, or something else altogether, naming both versions."""
    about = description if isinstance(description, dict) else {}
    found, writer = about.get("format"), about.get("anomaly_ft", "unknown")
    if type(found) is int and 1 <= found <= FORMAT:
        return
    readable = f"format {FORMAT}" if FORMAT == 1 else f"formats 1 to {FORMAT}"
    newer = type(found) is int and found > FORMAT
    raise RunError(
        f"{folder}: detector.json has format {found!r}, written by anomaly_ft {writer}; this is anomaly_ft "
        f"{__version__}, which reads {readable}" + ("; install a newer anomaly_ft" if newer else "")
    )


def _gaussian(tensors: dict[str, torch.Tensor], name: str) -> Gaussian:
    mean, whitening = (
        ("dense_mean", "dense_whitening") if name == "dense" else (f"mean{name}", f"whitening{name}")
    )
    return Gaussian(tensors[mean], tensors[whitening], torch.zeros(()), 0)
