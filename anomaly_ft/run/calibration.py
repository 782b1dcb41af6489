"""Set the thresholds of a detector on held-out good images that nothing else has used."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.chance import Chance, learn_chance
from anomaly_ft.evaluation.working_points import (
    ChiSquarePoint,
    Guarantee,
    by_group,
    chi_square,
    conformal_varied,
)
from anomaly_ft.metrics import Floats
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.inference import predict
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.model.threshold import Thresholds, WorkingPoint
from anomaly_ft.recipe.schema import Evaluation


@dataclass(frozen=True)
class Calibrated:
    """A detector with thresholds, and its predictions of the calibration images that set them."""

    detector: Detector
    point: WorkingPoint
    parametric: Sequence[ChiSquarePoint]
    calibration: Predictions
    maps: NDArray[Any]  # of the images and their varied copies, (1 + k, n, rows, columns)
    independent: int  # images that do not depend on one another
    decided_by: str = ""  # the image whose score alone is the threshold

    @cached_property
    def chance(self) -> Chance:
        """Learn what chance does in maps of good images, once: some milliseconds a map."""
        return learn_chance(self.maps, self.independent)

    @property
    def sentence(self) -> str:
        """Say what is guaranteed, and which image decides where a single one does."""
        if not self.decided_by:
            return str(self.point)
        return f"{self.point}; one image alone decides it: {self.decided_by}, see that it is good"


def calibrate_on(
    pixels: Pixels, records: Sequence[Record], detector: Detector, compute: Compute, asked: Evaluation
) -> Calibrated:
    """Set a detector's thresholds on held-out good images.

    Args:
        pixels: of the images, and after all of them of their varied copies.
        records: of the images.
        detector: any.
        compute: device, precision, batch size.
        asked: what the threshold has to guarantee.
    """
    rate, count = asked.false_positive_rate, len(records)
    everything = predict(detector, pixels, compute)
    groups = [record.group for record in records]

    def set_point(scores: Floats) -> WorkingPoint:
        return conformal_varied(by_group(scores.reshape(-1, count), groups), rate, asked.guarantee)

    point = set_point(everything.score)
    outputs = everything.convert(lambda values: values[:count])  # those that were not varied
    parametric = chi_square(detector.distance_mean, rate, outputs.distances)
    limit = set_point(everything.localises.max((1, 2))).threshold
    thresholds = Thresholds(point, tuple(level.threshold for level in parametric), limit)
    maps = everything.localises.reshape(-1, count, *everything.localises.shape[1:])
    independent = by_group(maps.max((2, 3)), groups).shape[1]
    highest = int(outputs.score.argmax())
    decided_by = records[highest].name if float(outputs.score[highest]) == point.threshold else ""
    kept = detector.with_thresholds(thresholds)
    return Calibrated(kept, point, parametric, outputs, maps, independent, decided_by)


def asked_again(
    section: Evaluation, point: WorkingPoint, rate: float | None = None, guarantee: Guarantee | None = None
) -> Evaluation:
    """Ask again for what a working point was asked for, or for another rate or guarantee. One that no good
    images set, by hand or on defects, was asked for nothing: the recipe's guarantee holds again."""
    of_images: Guarantee = "confidence" if point.confidence else "average"
    before = of_images if point.images else section.guarantee
    changes = {"false_positive_rate": rate or point.target_fpr, "guarantee": guarantee or before}
    return section.model_copy(update=changes)
