"""Which benign variation fits a folder's parts, for `anomaly-ft data` and `anomaly-ft init`.

Good training images alone are looked at; the recipe's section says which strengths there are.
"""

from dataclasses import replace
from pathlib import Path

from anomaly_ft.data.checks.pose import measure_pose
from anomaly_ft.data.checks.proposal import FEWEST, propose
from anomaly_ft.data.checks.report import Report
from anomaly_ft.data.checks.samples import evenly, grey_thumbnails, sample_pixels
from anomaly_ft.data.checks.sheet import variation_sheet
from anomaly_ft.data.pixels import Resize
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import CHANGES
from anomaly_ft.errors import DataError
from anomaly_ft.recipe.schema import Data
from anomaly_ft.recipe.variation import PRESETS, VariationSection

LOOKED_AT = 64  # images, evenly over all
ROWS = 4  # of the sheet
ELONGATED = 1.3  # from this ratio of the sides on, stretching into a square changes what a part looks like
IMAGE_SIZE: int = Data.model_fields["image_size"].default


def with_advice(report: Report) -> Report:
    """The report with a proposal of what may differ between its parts."""
    preset = VariationSection().preset
    thumbnails = grey_thumbnails(evenly(_good(report), LOOKED_AT), report.limits)
    pose = measure_pose(thumbnails) if len(thumbnails) >= FEWEST else None
    proposal = propose(pose, preset, PRESETS[preset], limits=limits(), image_size=IMAGE_SIZE)
    return replace(report, proposal=proposal)


def write_sheet(report: Report, path: Path) -> None:
    """Draw what a run will take for good parts when its recipe is as proposed.

    Raises:
        DataError: there are no good training images, or the file cannot be written or would lie among images.
    """
    if among_images(report, path):
        raise DataError(f"{path}: a sheet in {report.root} would be taken for an image; name another folder")
    pixels = sample_pixels(evenly(_good(report), ROWS), IMAGE_SIZE, fitting_resize(report), report.limits)
    if not len(pixels):
        raise DataError(f"{path}: no sheet: {report.root} has no good training image that can be read")
    proposed = report.proposal.strengths if report.proposal else {}
    strengths = VariationSection.model_validate(proposed).strengths()
    try:
        variation_sheet(pixels, strengths, path)
    except (OSError, ValueError) as cause:
        raise DataError(f"{path}: the sheet cannot be written: {cause}") from cause


def among_images(report: Report, path: Path) -> bool:
    """Whether a file would lie in the folder that was read."""
    return Path(report.root).expanduser().resolve() in path.expanduser().resolve().parents


def fitting_resize(report: Report) -> Resize:
    """Elongated images are put whole on black, others stretched."""
    width, height = usual_size(report)
    return "letterbox" if max(width, height) / min(width, height) >= ELONGATED else "stretch"


def usual_size(report: Report) -> tuple[int, int]:
    """Width and height of most images."""
    width, height = next(iter(report.sizes), "224x224").split("x")
    return int(width), int(height)


def limits() -> dict[str, tuple[float, float]]:
    """Lowest and highest strength of each change that a recipe allows.

    >>> limits()["rotation"]
    (0.0, 180.0)
    """
    fields = VariationSection.model_json_schema()["properties"]
    bounds = {name: fields[name]["anyOf"][0] for name in CHANGES}
    return {name: (float(each["minimum"]), float(each["maximum"])) for name, each in bounds.items()}


def _good(report: Report) -> list[Record]:
    return [record for record in report.readable if record.split == "train" and not record.anomalous]
