import numpy as np
import pytest
import torch

from anomaly_ft.errors import DeviceError
from anomaly_ft.model.compute import make_compute, resolve_precision


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_an_error(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"this machine has no {device} device; use auto or cpu"):
        make_compute(device=device)


def test_batches_hold_every_image_once_with_channels_second() -> None:
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    compute = make_compute(device="cpu", precision="fp32", batch_size=2)
    batches = list(compute.batches(pixels))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(torch.cat(batches).numpy(), pixels.transpose(0, 3, 1, 2))


def test_a_precision_that_is_named_stays() -> None:
    assert resolve_precision("cpu", "fp16") == "fp16"
