import math
from dataclasses import replace

import numpy as np
import pytest

from anomaly_ft.finetune.early_stopping import StoppingRule, early_stop, paired_standard_error
from anomaly_ft.finetune.records import Reason, StopDecision, Validation

NAN = math.nan


def history(*aurocs: float) -> list[Validation]:
    """Validations that differ from one another by a standard error of 0.01."""
    validations = []
    for epoch, auroc in enumerate(aurocs):
        influence = np.zeros(200)
        # each epoch's influences are independent of the others' and have the variance that makes
        # the difference of any two a standard error of 0.01
        influence[2 * epoch : 2 * epoch + 2] = [1.0, -1.0]
        scale = 0.01 * math.sqrt(200) / np.std(influence - np.roll(influence, 2), ddof=1)
        validations.append(Validation(auroc, {"scar": auroc}, {"scar": influence * scale}, 0.0))
    return validations


def verdict(*aurocs: float, max_epochs: int = 10, diverged: bool = False, **rule: float) -> StopDecision:
    return early_stop(
        history(*aurocs), StoppingRule(max_epochs, **{"tolerance": 1.0, **rule}), diverged=diverged
    )  # type: ignore[arg-type]


def stopped(reason: Reason, best_epoch: int) -> StopDecision:
    return StopDecision(stop=True, reason=reason, best_epoch=best_epoch)


def test_the_standard_error_of_a_difference_is_that_of_paired_samples() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=100)
    a, b = common + 0.1 * rng.normal(size=100), common + 0.1 * rng.normal(size=100)
    assert paired_standard_error(a, b) == pytest.approx(np.std(a - b, ddof=1) / 10)
    assert paired_standard_error(a, b) < 0.3 * np.std(a, ddof=1) / 10
    assert paired_standard_error(a, a) == 0


def test_the_made_histories_are_what_they_say() -> None:
    first, second, third = history(0.8, 0.8, 0.8)
    assert paired_standard_error(first.influence, second.influence) == pytest.approx(0.01)
    assert paired_standard_error(first.influence, third.influence) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("aurocs", "reason", "best"),
    [
        ([0.80], None, 0),
        ([0.80, 0.82], None, 1),
        ([0.80, 0.805], None, 0),  # within one standard error of the highest: nothing is gained yet
        ([0.80, 0.82, 0.825, 0.828], None, 1),  # within one of the epoch that is kept
        ([0.80, 0.82, 0.825, 0.832], None, 3),
        ([0.80, 0.807, 0.814, 0.821, 0.828], None, 4),  # small steps add up
        ([0.80, 0.82, 0.79], None, 1),  # one fall may be chance
        ([0.80, 0.82, 0.79, 0.79], "forgetting", 1),  # two falls are not
        ([0.80, 0.77, 0.76], "forgetting", 0),
        ([0.80, 0.77, 0.785, 0.77], "forgetting", 0),  # patience ends on a fall
        ([0.80, 0.785, 0.785, 0.785], "no_progress", 0),  # too low to keep, too near to be a fall
        ([0.80, 0.81, 0.825, 0.807, 0.807, 0.807], "no_progress", 2),
        ([0.80, 0.82, 0.822, 0.824, 0.826], "no_progress", 1),  # rises, but not by what counts
        ([0.80, 0.77, 0.81, 0.83], None, 3),  # what fell came back
    ],
)
def test_a_sequence_of_aurocs_gets_its_verdict(aurocs: list[float], reason: str | None, best: int) -> None:
    assert verdict(*aurocs) == StopDecision(reason is not None, reason, best)


def test_the_last_epoch_ends_training_with_the_best_kept() -> None:
    assert verdict(0.80, 0.82, 0.805, max_epochs=2) == stopped("max_epochs", 1)
    assert verdict(0.80, max_epochs=0) == stopped("max_epochs", 0)


def test_forgetting_in_the_last_epoch_is_called_by_its_name() -> None:
    assert verdict(0.80, 0.77, 0.76, max_epochs=2) == stopped("forgetting", 0)
    assert verdict(0.80, 0.815, 0.77, max_epochs=2) == stopped("forgetting", 1)
    assert verdict(0.80, 0.77, max_epochs=1) == stopped("forgetting", 0)
    assert verdict(0.80, 0.77, max_epochs=2).reason is None, "one fall may be an accident"
    assert verdict(0.80, 0.79, max_epochs=1) == stopped("max_epochs", 0), "too near to be a fall"


def test_a_divergence_ends_training_with_the_best_kept() -> None:
    assert verdict(0.80, 0.82, diverged=True) == stopped("diverged", 1)
    assert verdict(0.80, diverged=True) == stopped("diverged", 0)
    assert verdict(0.80, 0.77, 0.76, max_epochs=2, diverged=True).reason == "diverged"


def test_the_margin_is_counted_in_standard_errors() -> None:
    falls = (0.80, 0.795, 0.795)
    assert verdict(*falls, margin=0.6, tolerance=0.3).reason is None
    assert verdict(*falls, margin=0.4, tolerance=0.3).reason == "forgetting"


def test_the_tolerance_is_counted_in_standard_errors() -> None:
    assert verdict(0.80, 0.805, tolerance=0.6).best_epoch == 0
    assert verdict(0.80, 0.805, tolerance=0.4).best_epoch == 1


def test_without_tolerance_the_highest_is_kept() -> None:
    assert verdict(0.80, 0.8199, 0.82, tolerance=0.0).best_epoch == 2


def test_patience_counts_validations_since_the_last_kept() -> None:
    assert verdict(0.80, 0.815, 0.795, patience=1) == stopped("no_progress", 1)
    assert verdict(0.80, 0.815, 0.795, patience=2).reason is None


def test_measurements_that_agree_image_by_image_are_no_progress() -> None:
    same = [Validation(0.5, {}, {"scar": np.zeros(30)}, 0.0)] * 4
    assert early_stop(same, StoppingRule(10)) == stopped("no_progress", 0)


@pytest.mark.parametrize("aurocs", [[], [NAN], [0.8, NAN], [0.8, NAN, 0.9]])
def test_a_number_that_is_none_gets_no_verdict(aurocs: list[float]) -> None:
    with pytest.raises(
        ValueError, match="a verdict needs at least one validation, and AUROCs that are numbers"
    ):
        verdict(*aurocs)


def test_where_nothing_is_known_before_training_epoch_0_is_never_kept() -> None:
    assert verdict(0.9, first=1) == StopDecision(stop=False, reason=None, best_epoch=0)  # there is no other yet
    assert verdict(0.9, 0.7, first=1).best_epoch == 1
    assert verdict(0.9, 0.7, 0.8, first=1).best_epoch == 2
    assert verdict(0.9, 0.8, 0.7, 0.7, first=1, patience=9) == stopped("forgetting", 1)
    assert verdict(0.5, diverged=True, first=1) == stopped("diverged", 0)


def test_an_auroc_that_fell_by_rounding_alone_is_no_fall() -> None:
    equal = [Validation(auroc, {}, {"scar": np.zeros(9)}, 0.0) for auroc in (0.5, 0.5, 0.5 - 1e-16)]
    assert early_stop(equal, StoppingRule(2)).reason == "max_epochs"


def test_forgetting_is_told_by_how_far_it_fell_since_when_and_what_shows_it() -> None:
    lines, scars = (0.80, 0.82, 0.77, 0.75), (0.80, 0.82, 0.81, 0.81)
    with_two = [
        replace(
            each,
            by_augmentation={"scar": scar, "line": line},
            influences={"scar": each.influence, "line": each.influence},
        )
        for each, scar, line in zip(history(0.80, 0.82, 0.79, 0.78), scars, lines, strict=True)
    ]
    said = early_stop(with_two, StoppingRule(10, tolerance=1.0)).why
    assert said == "vicinal AUROC is 0.040 ± 0.010 below epoch 1's, and below it since epoch 2; line fell most"


def test_a_single_fall_at_the_last_epoch_has_no_since() -> None:
    said = verdict(0.80, 0.77, max_epochs=1)
    assert said.reason == "forgetting"
    assert said.why == "vicinal AUROC is 0.030 ± 0.010 below epoch 0's; scar fell most"


def test_every_end_of_training_says_what_was_seen_and_going_on_says_nothing() -> None:
    assert verdict(0.80, 0.82).why == ""
    assert verdict(0.80, 0.81, 0.81, 0.81, tolerance=2.0).why == (
        "no vicinal AUROC after it is more than 2 standard errors above epoch 0's"
    )
    assert verdict(0.80, 0.82, max_epochs=1).why == "the one epoch was trained"
    assert verdict(0.80, max_epochs=0).why == "no epoch was asked for"
    assert "loss far above the first" in verdict(0.80, diverged=True).why
