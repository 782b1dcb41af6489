"""The sections of a recipe that say where a run computes and where it is logged."""

import warnings
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.functional_serializers import PlainSerializer

from anomaly_ft.recipe.section import Section
from anomaly_ft.system.addresses import without_password

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", 'Field name "register"')  # a method of the metaclass, called by nobody

    class Tracking(Section):
        mlflow: bool = True
        """Log to MLflow."""
        uri: Annotated[str, PlainSerializer(without_password)] | None = None
        """Tracking server or database; unset: MLFLOW_TRACKING_URI, else a database in the output folder."""
        experiment: str = Field(default="anomaly_ft", min_length=1)
        """MLflow experiment."""
        images: int = Field(default=6, ge=0, le=8)
        """Test images (else held-out ones) whose maps are logged after every validation; 0: none."""
        system_metrics: bool = False
        """Log the machine's load as system/..., which needs the package psutil."""
        register: str = Field(default="", pattern=r"^[^/:]*$")
        """Name in MLflow's model registry under which the detector becomes a new version; unset: none."""


class Runtime(Section):
    """Device, precision, memory and threads."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the encoder runs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of training; `auto`: bf16 where it is fast. Statistics and scores are float32, as in exports."""
    channels_last: bool = True
    """Memory format of convolutions; faster on most processors."""
    batch_size: int = Field(default=32, ge=1)
    """Images at a time wherever nothing is trained."""
    micro_batch_size: int = Field(default=0, ge=0)
    """Images of a training step at a time, gradients added up: less memory, the same step; 0: all at once."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third slower."""
    compile: bool = False
    """torch.compile the encoder: a minute or more at first, then faster; pays in long runs."""
    threads: int = Field(default=0, ge=0)
    """Processor threads; 0: as many as there are cores."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Where decoded images are kept; `auto`: memory up to cache_gib, else the disk if it has room."""
    cache_gib: float = Field(default=4.0, ge=0)
    """Memory that decoded images, and what frozen early blocks made of them, may take."""
    cache_dir: str = ""
    """Folder of the cache on disk; unset: anomaly_ft in the user's cache folder."""
    cache_disk_gib: float = Field(default=50.0, ge=0)
    """Space that all caches on disk may take together; those used longest ago make room for a new one."""
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    """Minutes between checkpoints within an epoch; there is one after each epoch anyway. 0: after each step."""

    def computing(self) -> dict[str, Any]:
        """Give the settings that decide how a batch is computed."""
        return self.model_dump(include={"device", "precision", "batch_size", "channels_last"})
