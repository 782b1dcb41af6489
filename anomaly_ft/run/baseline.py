"""What the pretrained encoder's detector is worth: it stands beside every number of the fine-tuned one."""

from dataclasses import dataclass
from typing import Any

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.evaluation.what_if import Row, few_of_each, what_if
from anomaly_ft.evaluation.working_points import conformal_varied
from anomaly_ft.metrics import Floats
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.model.threshold import WorkingPoint
from anomaly_ft.recipe.variation import PRESETS, stronger
from anomaly_ft.run.setup import Setup


@dataclass(frozen=True)
class Baseline:
    """Numbers of the pretrained encoder's detector, taken before the encoder changes.

    Attributes:
        tested: what it says about the test images; None where there are none.
        point: its threshold, set on the same calibration images as that of the fine-tuned encoder.
        what_if: the rows of `evaluation.what_if`.
    """

    tested: Predictions | None
    point: WorkingPoint
    what_if: list[Row]


def measure_baseline(setup: Setup, detector: Detector) -> Baseline:
    """Measure the pretrained encoder's detector on test images, as they are and varied."""
    point = working_point(setup, detector)
    return Baseline(predict_test(setup, detector), point, vary_test(setup, detector, point))


def working_point(setup: Setup, detector: Detector) -> WorkingPoint:
    """Set the threshold of a detector on the calibration images and their varied copies."""
    scores = score_images(detector, setup.varied("calibration").pixels, setup.compute)[detector.decides]
    copies = scores.reshape(-1, len(setup.data.split.calibration))
    return conformal_varied(copies, setup.recipe.evaluation.false_positive_rate)


def predict_test(setup: Setup, detector: Detector) -> Predictions | None:
    """Predict the test images; None where there are none."""
    test = setup.data.test
    return predict(detector, test.pixels, setup.compute) if len(test) else None


def vary_test(setup: Setup, detector: Detector, point: WorkingPoint) -> list[Row]:
    """Measure what growing variation does to a few test images, or, without a test split, to calibration ones.

    Where the recipe calls nothing benign, the camera's preset is shown: the light changes all the same.
    """
    images: Images = setup.data.test if len(setup.data.test) else setup.data.normals("calibration")
    strengths = setup.recipe.variation.strengths() or PRESETS["camera"]

    def score(pixels: Pixels) -> Floats:
        return score_images(detector, pixels, setup.compute)[detector.decides]

    return what_if(
        score,
        point.threshold,
        few_of_each(images),
        lambda factor: stronger(strengths, factor),
        seed=setup.recipe.seed,
    )


def variation_summary(setup: Setup, rows: list[Row]) -> dict[str, Any]:
    """What `summary.json` says of variation: which changes are benign, and what growing ones do."""
    return {
        "preset": setup.recipe.variation.preset,
        "strengths": setup.recipe.variation.strengths(),
        "on": "test" if len(setup.data.test) else "calibration",
        "rows": rows,
    }
