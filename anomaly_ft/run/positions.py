"""Let vicinal validation choose what a position means, keep the choice for a run that goes on, and word it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.finetune.positions import choose_position
from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.finetune.validation import summed_up
from anomaly_ft.metrics import Floats
from anomaly_ft.model.gaussian.fitting import Heads
from anomaly_ft.model.gaussian.settings import POSITIONS
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.run.run_summary import PositionSummary
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.training import pseudo_sets
from anomaly_ft.system.files import write_json

FILE = "position.json"  # beside the checkpoint of an unfinished run


def choose(setup: Setup, heads: Heads, score: Callable[[Detector, Pixels], Floats]) -> PositionChoice:
    """Choose what a position means by the dense scores of held-out normal images and their pseudo-anomalies,
    which are made as for the usual detector, with a Gaussian at each position.

    Args:
        setup: the run.
        heads: of the pretrained encoder.
        score: computes the scores that validation watches.
    """
    made = pseudo_sets(setup, lambda pixels: score(heads.detectors["fixed"], pixels))
    sets = {name: pseudo for name, pseudo in made.items() if pseudo.informative}
    normal = score_images(heads, setup.varied("val").pixels, setup.compute)
    scored = {name: score_images(heads, pseudo.pixels, setup.compute) for name, pseudo in sets.items()}
    return choose_position(
        {
            position: summed_up(normal[position], {name: of[position] for name, of in scored.items()}, sets)
            for position in POSITIONS
        }
    )


def remember_position(partial: Path, choice: PositionChoice | None) -> None:
    """Keep the choice of an unfinished run, which may go on where numbers round otherwise."""
    if choice:
        (partial / "checkpoint").mkdir(exist_ok=True)
        write_json(partial / "checkpoint" / FILE, asdict(choice))


def remembered_position(partial: Path) -> PositionChoice | None:
    """Read the choice of an unfinished run, if it came to one."""
    try:
        kept = json.loads((partial / "checkpoint" / FILE).read_text(encoding="utf-8"))
        return TypeAdapter(PositionChoice).validate_python(kept)
    except (OSError, ValueError, ValidationError):
        return None


def summarise_position(setup: Setup) -> PositionSummary:
    """Sum up for `summary.json` what a position means, and why."""
    choice = setup.position
    return PositionSummary(
        asked=setup.recipe.gaussian.position,
        chosen=setup.detector_settings().position,
        fixed_vicinal_auroc=choice.aurocs["fixed"] if choice else None,
        free_vicinal_auroc=choice.aurocs["free"] if choice else None,
        standard_error=choice.standard_error if choice else None,
    )
