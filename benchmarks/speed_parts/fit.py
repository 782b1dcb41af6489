"""The pass that fits Gaussians against bare forward passes, and the estimator against scikit-learn's."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from anomaly_ft.model.gaussian.fitting import fit_detector, sums_of
from anomaly_ft.model.inference import predict
from speed_parts.clock import CLOCKS, in_turns, show, show_ratios
from speed_parts.prepared import prepare_run

HERE = Path(__file__).parents[1]


def fit(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        count = options.images
        setup = prepare_run(options, Path(name), 4 * count // 2)
        pixels, held_out = setup.inputs("train")[:count], setup.inputs("val")[: count // 4]
        encoder, compute, settings = setup.encoder, setup.compute, setup.detector_settings()
        size = compute.batch_size
        tensors = [(compute.batch(pixels[:size]).float() - encoder.mean) / encoder.std]

        def bare() -> None:
            for start in range(0, count, size):
                with torch.inference_mode(), compute.fabric.autocast():
                    encoder.model.forward_features(tensors[0][: count - start])

        detector = fit_detector(encoder, pixels, held_out, compute, settings)
        contestants = {
            "bare forward": bare,
            "statistics pass": lambda: sums_of(encoder, pixels, compute, settings),
            "all scores and maps": lambda: predict(detector, pixels, compute),
        }
        seconds = in_turns(contestants, options.repeats, CLOCKS[options.clock])
    how = f"{setup.recipe.data.image_size} px, {setup.recipe.encoder.name}, {setup.recipe.runtime.precision}"
    show_ratios(f"{count} images, {how}, {options.clock} seconds", seconds, "bare forward", count)
    estimators(options)


def estimators(options: argparse.Namespace) -> None:
    """Ledoit-Wolf over stored features, each in a process of its own for its memory."""
    rows = []
    for who in ("scikit-learn", "streaming"):
        command = [sys.executable, "-m", "speed_parts.alone", who, options.clock, *map(str, options.features)]
        found = [
            json.loads(subprocess.run(command, capture_output=True, check=True, cwd=HERE).stdout)
            for _ in range(options.repeats)
        ]
        rows.append((who, *(float(np.median([one[key] for one in found])) for key in ("seconds", "mib"))))
    show(
        "Ledoit-Wolf of {} features of width {}, {} seconds".format(*options.features, options.clock),
        ("", "seconds", "MiB above the features"),
        [(who, f"{seconds:.2f}", f"{mib:.0f}") for who, seconds, mib in rows],
    )
