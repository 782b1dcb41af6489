"""Choose what a position on the grid means, from vicinal validations of the same images alone."""

from collections.abc import Mapping

from anomaly_ft.finetune.early_stopping import is_above, paired_standard_error
from anomaly_ft.finetune.records import PositionChoice, Validation
from anomaly_ft.model.gaussian.settings import Position

MARGIN = 2.0  # standard errors that one Gaussian of all positions has to be ahead by


def choose_position(validations: Mapping[Position, Validation]) -> PositionChoice:
    """Choose `free` where its AUROC is higher than that of `fixed` by more than chance explains, else
    `fixed`: a tie leaves positions their meaning."""
    fixed, free = validations["fixed"], validations["free"]
    error = paired_standard_error(free.influence, fixed.influence)
    aurocs = {name: validation.auroc for name, validation in validations.items()}
    return PositionChoice("free" if is_above(free, fixed, MARGIN) else "fixed", aurocs, error)
