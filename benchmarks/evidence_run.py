"""One set and seed of `evidence.py`: every detector is made, timed and measured. Not a benchmark itself."""

import datetime
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cost_of, otherwise, varied_test
from speed_parts.memory import forget_peak, peak_mib

import anomaly_ft
from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.gaussian.fitting import Heads, fit_heads
from anomaly_ft.model.gaussian.settings import Position
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.finish import decoder_of, working_point
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import gaussian_method
from anomaly_ft.run.training import epochs, loop_state, make_monitor

DETECTORS = CLEAN, FROZEN, TUNED = "frozen, clean statistics", "frozen", "fine-tuned"
BOTH = (0.0, 1.0)  # strengths of the test images' variation: none, as the recipe says
GROWING = (0.0, 0.5, 1.0, 1.5, 2.0)  # those of a first seed, by the head that was chosen
Rows = list[dict[str, Any]]


@dataclass
class Cost:
    """Seconds of processor time and of the clock on the wall that were spent so far."""

    cpu: float = 0.0
    wall: float = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Add the time that passes."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def plain(self) -> dict[str, float]:
        """Name what was spent as the table does."""
        return {"cpu_seconds": self.cpu, "minutes": self.wall / 60}


def run(recipe: Recipe, terminal: Terminal) -> tuple[Rows, Rows]:
    """Make and measure all detectors of one set and seed: a row for each of them and head, and the numbers at
    each strength of variation."""
    forget_peak()
    setup = prepare(recipe, terminal)
    clean = otherwise(setup, {})
    alone, whole = Cost(), Cost()
    with alone.counting():
        on_clean = fit_both(clean)
    with whole.counting():
        method, frozen = induce(setup)
    chosen = method.settings.position
    measured = [
        measure(clean, on_clean, chosen, {"detector": CLEAN} | alone.plain()),
        measure(setup, frozen, chosen, {"detector": FROZEN} | whole.plain()),
    ]
    with whole.counting():  # a run begins with what was counted before
        kept, tuned = fine_tune(setup, method)
    measured.append(measure(setup, tuned, chosen, {"detector": TUNED} | kept | whole.plain()))
    rows, growing = ([row for part in parts for row in part] for parts in zip(*measured, strict=True))
    return [row | about() for row in rows], growing


def fit_both(setup: Setup) -> Heads:
    """Fit both heads to the encoder as it is; it sees each image once."""
    images = setup.inputs("train"), setup.inputs("val")
    return fit_heads(setup.encoder, *images, setup.compute, setup.detector_settings())


def induce(setup: Setup) -> tuple[GaussianMethod, Heads]:
    """Begin as a run does: fit both heads to the pretrained encoder and choose one of them."""
    method, found = gaussian_method(setup), list[Heads]()
    told, ask = setup.detector_settings().position, method.choose

    def choose(heads: Heads) -> PositionChoice:
        found.append(heads)
        return ask(heads) if ask else PositionChoice(told, {}, 0.0)

    method.choose = choose
    method.fit()
    return method, found[0]


def fine_tune(setup: Setup, method: GaussianMethod) -> tuple[dict[str, Any], Heads]:
    """Train once, with the head that was chosen; what became of it, and both heads of the trained encoder."""
    monitor = make_monitor(replace(setup, position=method.position), method, method.pretrained)
    state = loop_state(setup, method)
    verdict = list(epochs(setup, state, monitor))[-1].verdict
    kept = {"kept_step": verdict.best_epoch * state.epoch_steps, "stop_reason": verdict.reason}
    return kept, fit_both(setup)


def measure(setup: Setup, heads: Heads, chosen: Position, known: dict[str, Any]) -> tuple[Rows, Rows]:
    """Measure both heads of an encoder: their rows, each with what is `known`, and the numbers by strength."""
    rows, growing = Rows(), Rows()
    for name, detector in heads.detectors.items():
        auto = name == chosen
        strengths = GROWING if auto and not setup.recipe.seed else BOTH
        head = known | {"head": name, "auto": auto}
        by_strength, pixels = test(setup, detector, strengths)
        growing += [{name: head[name] for name in ("detector", "head", "auto")} | row for row in by_strength]
        at = {row["strength"]: row for row in by_strength}
        plain = {
            f"{prefix}{key}": at[strength][key]
            for prefix, strength in (("", 0.0), ("varied.", 1.0))
            for key in at[strength]
            if key != "strength"
        }
        rows.append(head | plain | pixels | cost_of(setup, detector))
    return rows, growing


def test(setup: Setup, detector: Any, strengths: Sequence[float]) -> tuple[Rows, dict[str, Any]]:
    """Test a detector: AUROC of all scores and what its threshold does, at each strength of variation; pixel
    numbers of the dense map, and the rates that the threshold promises."""
    records = setup.data.test.records
    anomalous = np.array([record.anomalous for record in records])
    point = working_point(setup, detector)
    tested = predict(detector, setup.data.test.pixels, setup.compute)
    rows = Rows()
    for strength in strengths:
        scores = (
            score_images(detector, varied_test(setup, strength), setup.compute) if strength else tested.scores
        )
        called = scores[detector.decides] > point.threshold
        rows.append(
            {"strength": strength}
            | {f"auroc.{name}": image_auroc(anomalous, values) for name, values in scores.items()}
            | {"rejected": called[~anomalous].mean(), "found": called[anomalous].mean()}
        )
    numbers = localise(records, {"dense": tested.maps["dense"]}, decoder_of(setup)).numbers
    promised = {"promised": point.guaranteed_fpr, "varied.promised": point.varied_fpr}
    return rows, {name: numbers[name] for name in ("pixel_auroc", "pixel_aupro")} | promised


def about() -> dict[str, Any]:
    """Say what made a set's rows, when, and with how much memory."""
    return {
        "version": anomaly_ft.__version__,
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "peak_mib": peak_mib(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def commit() -> str:
    """Read the short commit of the program, with `-dirty` where files were changed; empty without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """Name the processor, as far as the system says."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
