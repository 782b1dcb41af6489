"""Assess one detector on one labelled split: all numbers as one object for the summary and the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.localisation import Localisation, localise
from anomaly_ft.evaluation.measure import describe_point, intervals, measure, measure_kinds
from anomaly_ft.metrics import Floats
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.model.threshold import WorkingPoint


@dataclass(frozen=True)
class Assessment:
    """Predictions of labelled images, and how well their maps fit the masks."""

    records: tuple[Record, ...]
    outputs: Predictions
    localisation: Localisation
    point: WorkingPoint
    decoder: Decoder  # by which the images were read

    @property
    def scores(self) -> Floats:
        """The score that decides, `(n,)`."""
        return self.outputs.score

    def numbers(self) -> dict[str, float | None]:
        """Merge image numbers, the shares that the threshold rejects, and pixel numbers; flat, None where
        missing."""
        image = measure(self.records, self.outputs.scores, self.outputs.decides, self.point)
        return image | self.localisation.numbers

    def summary(self) -> dict[str, Any]:
        """Give what `summary.json` holds of a test: plain values under the keys `test`, `test_…`."""
        masks = asdict(self.localisation)
        left_out = ("regions", "with_mask", "empty_masks", "without_mask", "unreadable_masks")
        return {
            "test": self.numbers(),
            "test_intervals": intervals(self.records, self.scores),
            "test_by_kind": measure_kinds(self.records, self.outputs.scores, self.outputs.decides, self.point),
            "test_masks": {name: masks[name] for name in left_out},
            "test_attention": list(masks["attention"]),
            "test_threshold": describe_point(self.point, self.records, self.scores),
        }


def assess(
    records: Sequence[Record],
    outputs: Predictions,
    point: WorkingPoint,
    decoder: Decoder,
    map_limit: float | None = None,
) -> Assessment:
    """Measure a detector's outputs against labels and masks, which are read here, and the map that localises
    at its own limit where it has one."""
    localisation = localise(records, outputs.maps, decoder, map_limit)
    return Assessment(tuple(records), outputs, localisation, point, decoder)
