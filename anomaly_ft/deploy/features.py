"""The encoder's features as an array, for whatever else can be done with them."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_ft.deploy.inputs import to_pixels
from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.loading import LoadedRun, load_run


def features(run: str | Path | LoadedRun, images: Iterable[Any]) -> NDArray[np.float32]:
    """Concatenate the averaged features of every level: `(n, sum of d_l)`, float32, in the order of the levels.

    For scikit-learn: `make_pipeline(FunctionTransformer(partial(anomaly_ft.features, "runs/bottle-001")), …)`.

    Args:
        run: a run folder, or what `load_run` made of it.
        images: paths, or uint8 arrays `(h, w, 3)`, or one array `(n, h, w, 3)`; resized as in training.

    Raises:
        RunError: a folder that is not a finished run.
        DataError: an image that cannot be read.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(Path(run))
    encoder, compute = loaded.detector.encoder, loaded.compute
    batches = [np.empty((0, sum(encoder.widths)), np.float32)]
    remaining = iter(images)
    while chunk := list(islice(remaining, compute.batch_size)):
        pixels = compute.batch(np.stack([to_pixels(item, loaded.decoder) for item in chunk]))
        with torch.inference_mode(), compute.fabric.autocast():
            batches.append(torch.cat(pool(encoder(pixels)), 1).float().cpu().numpy())
    return np.concatenate(batches)
