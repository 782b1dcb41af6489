"""The bound on memory that the detector states, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import json, torch
from pathlib import Path
import numpy as np
from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.settings import detector_settings

def peak():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
torch.manual_seed(0)
encoder = load_encoder("tf_efficientnet_lite0", "random", image_size=448)
compute = make_compute(device="cpu", precision="fp32", batch_size=2)
compute.prepare(encoder)
pixels = np.random.default_rng(0).integers(0, 256, (4, 448, 448, 3), np.uint8)
with torch.inference_mode():
    for images in compute.batches(pixels):
        encoder(images)
before = peak()
settings = detector_settings(Recipe(data={"root": "x"}))
detector = fit_detector(encoder, pixels, pixels[:2], compute, settings)
kept = sum(t.numel() * t.element_size() for k, t in detector.state_dict().items() if k[:7] != "encoder")
print(json.dumps({"fit": peak() - before, "kept": kept / 2**20, "grids": [settings.grid, settings.map_grid]}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_the_default_detector_at_448_pixels_is_fitted_in_less_than_500_mib() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fit"] < 500
    assert found["kept"] < 100
