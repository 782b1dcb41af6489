"""A sheet of images varied as a folder's recipe would vary them, for the commands `data` and `init`."""

import io
from pathlib import Path

from PIL import Image

from anomaly_ft.data.checks.report import Report
from anomaly_ft.data.checks.samples import evenly, sample_pixels
from anomaly_ft.data.checks.sheet import variation_sheet
from anomaly_ft.data.proportions import native_size
from anomaly_ft.errors import DataError
from anomaly_ft.recipe.variation import VariationSection
from anomaly_ft.run.advice import IMAGE_SIZE, fitting_resize, good_images
from anomaly_ft.system.files import write_bytes

ROWS = 4


def write_sheet(report: Report, path: Path) -> None:
    """Draw what a run will take for good parts when its recipe is as proposed.

    Raises:
        DataError: there are no good training images, or the file cannot be written or would lie among images.
    """
    if among_images(report, path):
        raise DataError(f"{path}: a sheet in {report.root} would be taken for an image; name another folder")
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        ending = path.suffix or "no ending"
        raise DataError(f"{path}: the sheet cannot be written: {ending} is no image that Pillow writes; "
                        "name it .png")  # fmt: skip
    records, resize = evenly(good_images(report), ROWS), fitting_resize(report)
    size = native_size(records, IMAGE_SIZE) if resize == "native" else IMAGE_SIZE
    pixels = sample_pixels(records, size, resize, report.limits)
    if not len(pixels):
        raise DataError(f"{path}: no sheet: {report.root} has no good training image that can be read")
    proposed = report.proposal.strengths if report.proposal else {}
    strengths = VariationSection.model_validate(proposed).strengths()
    content = io.BytesIO()
    try:
        variation_sheet(pixels, strengths).save(content, kind)
        write_bytes(path, content.getvalue())
    except (OSError, ValueError) as cause:
        raise DataError(f"{path}: the sheet cannot be written: {cause}") from cause


def among_images(report: Report, path: Path) -> bool:
    """Tell whether a file would lie in the folder that was read."""
    return Path(report.root).expanduser().resolve() in path.expanduser().resolve().parents
