"""The parts of a summary: plain values with a name and a meaning each."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Numbers = dict[str, Number | None]  # by metric name; None: not measured
Ends = tuple[Number, Number]  # of an interval
StopReason = Literal["forgetting", "no_progress", "max_epochs", "diverged"]


class Part(BaseModel):
    """A part of a summary: closed, frozen, finite; documented by its attributes' docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def plain(self) -> dict[str, Any]:
        """Give plain values as they stand in the file."""
        return self.model_dump(mode="json")


class Skipped(Part):
    """A file that could not be read."""

    path: str
    """The file."""
    why: str
    """What was wrong with it."""


class MeasuredData(Part):
    """The labelled images that were measured on."""

    root: str
    """Where the images lie."""
    layout: str
    """How they are laid out."""
    test_normal: Count
    """Normal test images."""
    test_anomalous: Count
    """Anomalous test images."""
    skipped: tuple[Skipped, ...]
    """Files that could not be read."""


class RunData(MeasuredData):
    """All images of a run."""

    train: Count
    """Normal images that statistics were estimated from and that were trained on."""
    val: Count
    """Normal images held back to see forgetting."""
    calibration: Count
    """Normal images held back to set the threshold."""

    @property
    def normal(self) -> int:
        """How many normal images went into the run."""
        return self.train + self.val + self.calibration


class Baseline(Part):
    """Vicinal validation before training."""

    vicinal_auroc: Number | None
    """Mean over the informative augmentations."""
    severities: dict[str, Number]
    """Of each augmentation, calibrated or as the recipe says."""
    informative: tuple[str, ...]
    """Augmentations that leave room to show forgetting, so that they count for the stop decision."""


class Thresholds(Part):
    """The decision threshold."""

    threshold: Number
    """The score above which an image is called anomalous."""
    target_fpr: Number
    """The false positive rate asked for, `evaluation.false_positive_rate`."""
    guaranteed_fpr: Number
    """The rate that holds at most; 1 where nothing is guaranteed."""
    varied_fpr: Number | None = None
    """The same for images that vary as the recipe allows; `null` without variation."""
    images: Count
    """Held-out normal images that set it, those of one group counted once; 0: set by hand or on defects."""
    confidence: Number | None = None
    """With which the rate holds for this one threshold; `null`: it holds averaged over calibration sets."""
    found_share: Number | None = None
    """Share of defects that it finds at least, with 95 % confidence, where labelled ones set it."""
    decided_by: str = ""
    """The calibration image whose score alone is the threshold; empty where several lie above it."""


class Observed(Part):
    """How many normal images a threshold rejected."""

    rejected: Count
    """Normal images above the threshold."""
    images: Count
    """Normal images."""
    rate: Number
    """The one over the other."""
    low: Number
    """Lower end of its 95 % Wilson interval."""
    high: Number
    """Upper end."""


class MeasuredThreshold(Thresholds):
    """The threshold, and what it did to test images."""

    likely_at_most: Number
    """The rate that this one threshold stays below with 95 % confidence."""
    observed: Observed | None
    """What it did to normal test images; `null` where there are none."""


class ChiSquare(Part):
    """A threshold that would hold if features were Gaussian."""

    level: str
    """The level; last, under a name of the detector's, the mean over all."""
    dimensions: Count
    """Of its features."""
    threshold: Number
    """A distance that a Gaussian exceeds with probability `target_fpr`."""
    target_fpr: Number
    """As above."""
    held_out: Observed | None
    """What that did to the normal images named; `null` where there are none."""


class KindRow(Part):
    """One kind of test image; beside the keys below it has metrics of this kind against the normal images."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | None]

    kind: str
    """`good`, or the type of defect."""
    images: Count
    """Test images of this kind."""
    rejected: Count
    """Of these above the threshold."""
    rejected_interval: Ends
    """Wilson interval of the share of these."""
    intervals: dict[str, Ends] = {}
    """Bootstrap intervals of the metrics, by name."""


class Masks(Part):
    """What pixel metrics rest on."""

    regions: Count
    """Connected regions in all masks."""
    with_mask: Count
    """Anomalous images whose mask was used."""
    empty_masks: Count
    """Anomalous images whose mask marks nothing."""
    without_mask: Count
    """Anomalous images without one."""
    unreadable_masks: Count
    """Images whose mask could not be read."""


class AttentionRow(Part):
    """Whether the detector looks at one type of defect."""

    kind: str
    """The type of defect."""
    images: Count
    """Images of it with a mask."""
    inside: Number
    """Mean share of the contribution map inside the mask."""
    area: Number
    """Mean share of the image that the mask covers."""
    elsewhere: bool
    """Whether the first is no larger than the second: the detector looks elsewhere."""


class SuspiciousImage(Part):
    """A training image that looks little like the others."""

    name: str
    """The image, below the root."""
    part: str
    """The part of the split that it is in, or `left out` (`expert.gaussian.robust`)."""
    distance: Number
    """Mean over levels of its distance to Gaussians that were fitted without it, pretrained encoder."""
    deviations: Number
    """How many robust standard deviations that lies above the median of all training images."""
    stands_out: bool
    """Whether these are more than 3.5."""


class Speed(Part):
    """How fast the run was."""

    train: Number | None
    """While training; `null` where nothing was trained."""


class VariationRow(Part):
    """Images that vary by one change, or by several drawn for each image as in training, up to a strength."""

    change: str
    """The change; `unchanged`, or `one to three at once`: so many of them, drawn for each image, beside how the
    part lies."""
    factor: Number
    """Times the strength of the recipe."""
    strength: Number | None
    """That strength, in the unit of the recipe's setting; `null` for none and for several at once."""
    auroc: Number | None
    """Image AUROC of the fine-tuned encoder's detector; `null` without anomalous images."""
    rejected: Number | None
    """Share of the good images that it rejects."""
    frozen_auroc: Number | None
    """The AUROC of the pretrained encoder's detector, fitted alike."""
    frozen_rejected: Number | None
    """The share that it rejects, at a threshold set on the same images."""


class UnderVariation(Part):
    """What if the light changes: a few images, varied more and more."""

    preset: str
    """Of the recipe; for `none`, which calls no change benign, the rows show the camera's changes."""
    strengths: dict[str, Number]
    """Of each change that the detector takes for benign."""
    on: Literal["test", "val"]
    """The images: of the test split, or held-out normal ones where there is none."""
    rows: tuple[VariationRow, ...]
    """A row for each change and strength."""

    def several(self) -> VariationRow | None:
        """Give the row of one to three changes at once, at the strength of the recipe."""
        return next(
            (row for row in self.rows if row.change == "one to three at once" and row.factor == 1), None
        )


class Rejected(Part):
    """How many of some images a threshold rejected."""

    rejected: Count
    """Images above the threshold."""
    images: Count
    """Of so many."""
    rate: Number
    """The one over the other."""
    low: Number
    """Lower end of its 95 % Wilson interval."""
    high: Number
    """Upper end."""


class UnderCondition(Part):
    """What one detector is worth under one condition; `null` where a kind of image is missing."""

    false_alarms: Rejected | None
    """Normal images that it rejects at its threshold."""
    found: Rejected | None
    """Anomalous images that it rejects."""
    image_auroc: Number | None
    """Its AUROC on this condition's images."""
    image_auroc_interval: Ends | None
    """Bootstrap interval of it."""


class ConditionRow(UnderCondition):
    """What both detectors are worth under one condition."""

    condition: str
    """The value of the column, of the (group) or of the folder."""
    normal: Count
    """Normal images."""
    anomalous: Count
    """Anomalous images."""
    frozen: UnderCondition | None
    """The same of the pretrained encoder's detector at its own threshold; `null` where it is not at hand."""


class Appearance(Part):
    """How the images as a whole look beside those the detector knows."""

    images: Count
    """Images that were looked at: the normal ones, or all where none is."""
    limit: Number
    """Spreads from which on a difference is said."""
    spreads: dict[str, Number]
    """Of each property how far the mean lies beside what is known, in standard deviations of single images."""
    differs: tuple[str, ...]
    """The properties beyond the limit, the farthest first."""
