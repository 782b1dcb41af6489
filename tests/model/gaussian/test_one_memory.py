"""One detector for parts that come one after another, by a frozen encoder: as if all had been there at once."""

from collections.abc import Callable

import numpy as np
import torch
from settings import detector_settings
from sklearn.covariance import LedoitWolf

from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.encoder.adapters import digest
from anomaly_ft.model.encoder.encoder import load_encoder, pool
from anomaly_ft.model.gaussian.fitting import fit_gaussians, fit_to_sums, sums_of
from anomaly_ft.model.gaussian.sums import PartSums
from anomaly_ft.model.inference import score_images

SETTINGS = detector_settings(grid=4, smoothing=0.5, map_grid=5)


def test_after_each_part_one_memory_is_the_detector_of_all_images_so_far(
    make_textures: Callable[[int, int, int], np.ndarray],
) -> None:
    torch.manual_seed(0)
    encoder = load_encoder("test_efficientnet", "random", image_size=64)
    compute = make_compute(device="cpu", precision="fp32", batch_size=8)
    parts = [make_textures(17, 64, 1), 255 - make_textures(9, 64, 2), make_textures(12, 64, 3) // 3]
    others = make_textures(6, 64, 4)

    def sums(place: int) -> PartSums:
        own = sums_of(encoder, parts[place], compute, SETTINGS, exact=True)
        return PartSums(f"part {place}", digest(encoder.model), own)

    total = sums(0)
    for seen in (1, 2, 3):
        total = total + sums(seen - 1) if seen > 1 else total
        memory, everything = fit_to_sums(encoder, list(total.sums), SETTINGS), np.concatenate(parts[:seen])
        with torch.inference_mode():
            one_by_one = [pool(encoder(compute.batch(image[None]))) for image in everything]
        for level, features in enumerate(zip(*one_by_one, strict=True)):
            expected = LedoitWolf().fit(torch.cat(features).double().numpy())
            mean, whitening = (tensor.double().numpy() for tensor in memory.level_gaussian(level))
            np.testing.assert_allclose(mean, expected.location_, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(
                np.linalg.inv(whitening.T @ whitening), expected.covariance_, rtol=1e-2, atol=1e-6
            )
        whole, _ = fit_gaussians(encoder, everything, compute, SETTINGS)
        found, expected_scores = (score_images(each, others, compute) for each in (memory, whole))
        for name in ("pooled", "dense"):
            np.testing.assert_allclose(found[name], expected_scores[name], rtol=1e-4)
