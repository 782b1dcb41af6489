"""Which benign variation fits a folder's parts, for `anomaly-ft data` and `anomaly-ft init`.

Good training images alone are looked at; the recipe's section says which strengths there are. Nothing here
loads what varies images: a look at a folder is to be quick.
"""

from dataclasses import replace

from anomaly_ft.data.checks.pose import measure_pose
from anomaly_ft.data.checks.proposal import FEWEST, propose
from anomaly_ft.data.checks.report import Report
from anomaly_ft.data.checks.samples import evenly, grey_thumbnails
from anomaly_ft.data.images import same_aspect
from anomaly_ft.data.pixels import Resize
from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import Shares
from anomaly_ft.recipe.schema import Data
from anomaly_ft.recipe.variation import PRESETS, VariationSection

LOOKED_AT = 64  # images, evenly over all
ENOUGH = 100  # normal images from which on the recipe's default shares do
MOST_HELD_BACK = 0.25
ELONGATED = 1.3  # from this ratio of the sides on, stretching into a square changes what a part looks like
IMAGE_SIZE: int = Data.model_fields["image_size"].default


def with_advice(report: Report) -> Report:
    """Add to the report a proposal of what may differ between its parts, and divide it as the recipe will that
    `anomaly-ft init` writes."""
    preset = VariationSection().preset
    thumbnails = grey_thumbnails(evenly(good_images(report), LOOKED_AT), report.limits)
    pose = measure_pose(thumbnails) if len(thumbnails) >= FEWEST else None
    proposal = propose(pose, preset, PRESETS[preset], limits=limits(), image_size=IMAGE_SIZE)
    return replace(report.divided(fitting_shares(len(good_images(report)))), proposal=proposal)


def fitting_shares(count: int) -> Shares:
    """Hold back more of few normal images: as many for the threshold as 100 would give, a quarter at most."""
    default = Data.model_fields["calibration_share"].default
    share = round(min(MOST_HELD_BACK, max(default, default * ENOUGH / max(1, count))), 3)
    return Shares(share, share)


def fitting_resize(report: Report) -> Resize:
    """Choose native for elongated images of the same proportions, letterbox for mixed ones, else stretch."""
    width, height = usual_size(report)
    if max(width, height) / min(width, height) < ELONGATED:
        return "stretch"
    sizes = [(int(w), int(h)) for w, h in (size.split("x") for size in report.sizes)]
    ordered = sorted(sizes, key=lambda size: size[0] / size[1])
    return "native" if same_aspect(ordered[0], ordered[-1]) else "letterbox"


def usual_size(report: Report) -> tuple[int, int]:
    """Find width and height of most images."""
    width, height = next(iter(report.sizes), "224x224").split("x")
    return int(width), int(height)


def limits() -> dict[str, tuple[float, float]]:
    """Give the lowest and highest strength of each change that a recipe allows.

    >>> limits()["rotation"]
    (0.0, 180.0)
    """
    fields = VariationSection.model_json_schema()["properties"]
    bounds = {name: fields[name]["anyOf"][0] for name in PRESETS["free"]}
    return {name: (float(each["minimum"]), float(each["maximum"])) for name, each in bounds.items()}


def good_images(report: Report) -> list[Record]:
    """List good training images that can be read."""
    return [record for record in report.readable if record.split == "train" and not record.anomalous]
