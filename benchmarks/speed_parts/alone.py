"""What is measured in a process of its own, for its memory; prints JSON.

    python -m speed_parts.alone scikit-learn|streaming CLOCK IMAGES WIDTH
    python -m speed_parts.alone growth CLOCK ROOT

It imports only what it needs, for that is in its memory too.
"""

import json
import os
import sys

import numpy as np

from speed_parts.clock import CLOCKS
from speed_parts.memory import peak_mib

BATCH = 32
SIDE = 32  # pixels of the many images


def estimate(who: str, clock: str, images: int, width: int) -> dict[str, float]:
    """Time one estimate of features that are made first; `mib` is what the peak of memory grows by."""
    import torch
    from sklearn.covariance import LedoitWolf

    from anomaly_ft.model.gaussian import statistics as gaussian

    features = np.random.default_rng(0).standard_normal((images, width), dtype=np.float32)
    before, started = peak_mib(), CLOCKS[clock]()
    if who == "scikit-learn":
        LedoitWolf().fit(features)
    else:
        gaussian.fit(gaussian.accumulate([part] for part in torch.from_numpy(features).split(BATCH))[0])
    return {"seconds": CLOCKS[clock]() - started, "mib": peak_mib() - before}


def read_and_fit(clock: str, root: str) -> list[float]:
    """Seconds to read images without a cache, to fit all Gaussians to them, and the peak of memory."""
    import torch

    from anomaly_ft.data.dataset import Options, load_dataset
    from anomaly_ft.data.splits import Shares
    from anomaly_ft.model.compute import make_compute
    from anomaly_ft.model.encoder.encoder import load_encoder
    from anomaly_ft.model.gaussian.fitting import fit_detector
    from speed_parts.settings import few_settings

    now = CLOCKS[clock]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    encoder = load_encoder("test_efficientnet", "random", image_size=SIDE)
    compute = make_compute(device="cpu", precision="fp32")
    started = now()
    data = load_dataset(
        root,
        image_size=SIDE,
        shares=Shares(val=0.15, calibration=0.15),
        options=Options(cache="none", allow_leak=True),
    )
    read = now()
    pixels, held_out = data.normals("train").pixels, data.normals("val").pixels
    fit_detector(encoder, pixels, held_out, compute, few_settings(grid=4, map_grid=4))
    return [read - started, now() - read, peak_mib()]


if __name__ == "__main__":
    asked = sys.argv[1:]
    growth = asked[0] == "growth"
    print(json.dumps(read_and_fit(*asked[1:]) if growth else estimate(*asked[:2], *map(int, asked[2:]))))
