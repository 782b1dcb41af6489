"""The sections of a recipe that say how, and how long, is trained."""

from typing import Annotated, Literal

from pydantic import Field

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
    """Training steps of an epoch; `auto`: equal parts of max_steps, as many as max_share allows."""
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
