"""Figures of a run say what they are to say."""

import numpy as np

from anomaly_ft.evaluation.plots import forgetting_figure
from anomaly_ft.finetune.records import StopDecision, Validation


def test_the_forgetting_figure_marks_the_kept_epoch_and_says_why_training_ended() -> None:
    validations = [Validation(a, {"line": a}, {"line": np.zeros(3)}, 1.0) for a in (0.8, 0.82, 0.79, 0.78)]
    why = "vicinal AUROC is 0.040 ± 0.010 below epoch 11's, and below it since epoch 12; cutpaste fell most"
    figure = forgetting_figure(validations, StopDecision(stop=True, reason="forgetting", best_epoch=1, why=why))
    (axes,) = figure.axes
    first, second = figure.get_suptitle().splitlines()
    assert first.endswith("ended: forgetting")
    assert second == why
    kept = next(line for line in axes.lines if line.get_label() == "kept epoch: 1")
    assert list(kept.get_xdata()) == [1, 1]
    figure.canvas.draw()
    (title,) = (text.get_window_extent() for text in figure.texts)
    assert figure.bbox.x0 <= title.x0 < title.x1 <= figure.bbox.x1, "nothing of it is cut"
