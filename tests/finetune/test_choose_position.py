import numpy as np
import pytest

from anomaly_ft.finetune.positions import MARGIN, choose_position
from anomaly_ft.finetune.records import Validation


def validation(auroc: float, influence: np.ndarray) -> Validation:
    return Validation(auroc, {}, {"scar": influence}, 0.0)


@pytest.mark.parametrize(
    ("ahead", "chosen"),
    [(MARGIN + 0.1, "free"), (MARGIN - 0.1, "fixed"), (0, "fixed"), (-MARGIN - 0.1, "fixed")],
)
def test_positions_are_free_only_where_that_is_better_than_chance_explains(ahead: float, chosen: str) -> None:
    rng = np.random.default_rng(0)
    fixed, free = rng.normal(0, 0.2, (2, 40))
    error = np.std(free - fixed, ddof=1) / np.sqrt(40)
    choice = choose_position({"fixed": validation(0.8, fixed), "free": validation(0.8 + ahead * error, free)})
    assert choice.position == chosen
    assert choice.standard_error == pytest.approx(error)
    assert choice.aurocs == {"fixed": 0.8, "free": pytest.approx(0.8 + ahead * error)}


def test_a_tie_without_any_spread_leaves_positions_their_meaning() -> None:
    same = validation(1.0, np.zeros(9))
    assert choose_position({"fixed": same, "free": same}).position == "fixed"
