"""Settings of a detector as a recipe that says nothing has them, without a run."""

from dataclasses import replace
from typing import Any

from anomaly_ft.model.gaussian.settings import DetectorSettings
from anomaly_ft.recipe.schema import Data, Recipe
from anomaly_ft.run.settings import detector_settings


def few_settings(**changes: Any) -> DetectorSettings:
    """Make the default settings, changed in these alone."""
    return replace(detector_settings(Recipe(data=Data(root="nowhere"))), **changes)
