"""Keep the choice of what a position means for a run that goes on, and sum it up."""

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.run.run_summary import PositionSummary
from anomaly_ft.run.setup import Setup
from anomaly_ft.system.files import write_json

FILE = "position.json"  # beside the checkpoint of an unfinished run


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
