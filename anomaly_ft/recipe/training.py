"""The sections of a recipe that say how, and how long, is trained, and how it is watched."""

from typing import Annotated, Literal

from pydantic import Field

from anomaly_ft.recipe.augmentations import USUAL, Augmentation
from anomaly_ft.recipe.section import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class Optimizer(Section):
    """The optimiser."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimiser, as torch has it."""
    lr: float = Field(default=3e-4, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of each layer as a share of that of the layer after it."""
    batch_size: int = Field(default=16, ge=1)
    """Images in a training step."""


class Schedule(Section):
    """The length of training, and the stopping rule."""

    max_epochs: int = Field(default=6, ge=0)
    """Epochs at most, from one validation to the next; 0 measures the frozen encoder and trains nothing."""
    max_steps: int = Field(default=150, ge=1)
    """Training steps at most, whole epochs but never less than one; raise with max_epochs to train longer."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Passes over all images, at most half of max_steps, while the learning rate rises to its full height."""
    epoch_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Training steps of an epoch; `auto`: equal parts of max_steps, 25 or more, as many as max_share allows."""
    average: bool = False
    """Validate and keep the mean of the weights over epochs, the pretrained ones among them."""
    interpolate: tuple[Share, ...] = ()
    """Shares of fine-tuned weights to try, such as [0.25, 0.5, 0.75]; vicinal validation chooses."""
    patience: int = Field(default=3, ge=1)
    """Stop after so many validations in a row that are not kept."""
    tolerance: float = Field(default=2.0, ge=0)
    """An epoch is kept if it is better by so many standard errors than the one kept so far; 0: the highest."""
    margin: float = Field(default=2.0, ge=0)
    """Standard errors below the highest from which a fall counts as forgetting."""


class Validation(Section):
    """Pseudo-anomalies by which validation sees forgetting."""

    augmentations: Literal["auto"] | Annotated[tuple[Augmentation, ...], Field(min_length=1)] = "auto"
    """How pseudo-anomalies are made from held-out normal images; `auto`: line, stain, blend and warp; for a
    filter those of them that its training does not use."""
    severity: Literal["calibrated"] | Annotated[float, Field(ge=0, le=1)] = "calibrated"
    """How strong they are: found for each augmentation at epoch 0, or one number for all."""
    target_auroc: float = Field(default=0.8, gt=0.5, lt=1)
    """AUROC of the pretrained encoder to which each severity is calibrated."""
    tolerance: float = Field(default=0.12, gt=0, lt=0.5)
    """An augmentation further than this from the target does not count for the stop decision."""
    max_share: Share = 0.4
    """Share of fine-tuning's time that validations may take (at least one is made): sets `auto` epoch_steps."""

    def named(self) -> tuple[Augmentation, ...]:
        """List the augmentations that may be used."""
        return USUAL if isinstance(self.augmentations, str) else self.augmentations
