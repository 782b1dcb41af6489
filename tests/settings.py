"""Settings and recipes for tests that care for few of them."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf
from PIL import Image

from anomaly_ft.model.gaussian.settings import DetectorSettings

USUAL: dict[str, Any] = {
    "score": "fused",
    "shrinkage": "ledoit_wolf",
    "dense_levels": "auto",
    "grid": 14,
    "smoothing": 0.5,
    "variance_floor": 0.01,
    "dense_dimensions": 256,
    "dense_weight": 1.0,
    "level_weights": (),
}


def detector_settings(**changes: Any) -> DetectorSettings:
    """Make settings that differ from the usual ones in these alone."""
    return DetectorSettings(**USUAL | changes)


TINY: dict[str, Any] = {  # seconds: a small encoder, small images, a coarse grid
    "data": {"image_size": 64},
    "encoder": {"name": "test_efficientnet", "weights": "random"},
    "schedule": {"max_epochs": 1},
    "runtime": {"device": "cpu", "precision": "fp32"},
    "tracking": {"mlflow": False},
    "expert": {
        "data": {"val_share": 0.2, "calibration_share": 0.2},
        "gaussian": {"grid": 4},
        "schedule": {"epoch_steps": 2},
        "runtime": {"threads": 1},
    },
}
ONE_AUGMENTATION = ("validation.augmentations=[scar]", "expert.validation.severity=0.5")  # nothing to calibrate


def write_recipe(path: Path, root: Path, *changes: str) -> Path:
    """Write the recipe of a run that takes seconds on the images below `root`, changed as by `--set`."""
    changed = OmegaConf.merge(TINY, {"data": {"root": str(root)}}, OmegaConf.from_dotlist(list(changes)))
    path.write_text(yaml.safe_dump(OmegaConf.to_container(changed)))
    return path


def tracked(store: str, experiment: str) -> tuple[str, ...]:
    """Changes by which a run is logged to a store."""
    return ("tracking.mlflow=true", f"tracking.uri={store}", f"tracking.experiment={experiment}")


def write_images(folder: Path, images: np.ndarray, name: str = "{:03d}.png") -> None:
    """Write images as numbered files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(i))


def textures(count: int, size: int, seed: int) -> np.ndarray:
    """Smooth random colour textures, uint8 `(count, size, size, 3)`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (count, 8, 8, 3), dtype=np.uint8)
    bilinear = Image.Resampling.BILINEAR
    smooth = [np.asarray(Image.fromarray(c).resize((size, size), bilinear)) for c in coarse]
    return np.stack(smooth) + rng.integers(0, 20, (count, size, size, 3), dtype=np.uint8)
