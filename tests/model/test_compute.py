import numpy as np
import pytest
import torch

from anomaly_ft.errors import DeviceError
from anomaly_ft.model.compute import explain_memory, make_compute, resolve_precision


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


def on_a_machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)


@pytest.mark.parametrize(
    ("device", "machine", "expected"),
    [
        ("auto", {"cuda": True, "mps": False, "bf16": True}, "bf16"),
        ("auto", {"cuda": True, "mps": False, "bf16": False}, "fp32"),
        ("auto", {"cuda": False, "mps": True, "bf16": True}, "fp32"),
        ("cpu", {"cuda": False, "mps": True, "bf16": True}, "bf16"),
        ("cpu", {"cuda": False, "mps": False, "bf16": False}, "fp32"),
    ],
)
def test_auto_is_bf16_where_the_device_computes_it_fast(
    device: str, machine: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, **machine)
    assert resolve_precision(device, "auto") == expected


def test_fp16_on_a_processor_is_refused_and_not_made_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, cuda=False, mps=False, bf16=True)
    for device in ("auto", "cpu"):
        with pytest.raises(DeviceError, match=r"do not train in fp16; use auto, bf16 or fp32"):
            make_compute(device=device, precision="fp16")
    on_a_machine(monkeypatch, cuda=True, mps=False, bf16=True)
    with pytest.raises(DeviceError, match=r"do not train in fp16; use auto, bf16 or fp32"):
        make_compute(device="cpu", precision="fp16")


def test_memory_that_ran_out_names_the_settings_that_need_less() -> None:
    too_much = (
        lambda: torch.empty(2**60),
        lambda: exec("raise MemoryError"),
        lambda: exec("raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate')", {"torch": torch}),
    )
    for ask in too_much:
        with pytest.raises(DeviceError) as caught, explain_memory():
            ask()
        for setting in ("micro_batch_size: ", "gradient_checkpointing: ", "batch_size: "):
            assert f"  expert.runtime.{setting}" in str(caught.value)


def test_other_errors_are_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"), explain_memory():
        raise RuntimeError("shapes do not fit")


def test_training_is_in_the_precision_asked_for_and_every_other_pass_in_float32() -> None:
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        compute = make_compute(device="cpu", precision=precision)
        layer = torch.nn.Linear(2, 2)
        seen: list[torch.dtype] = []
        layer.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output.dtype))
        with compute.fabric.autocast():
            layer(torch.ones(1, 2))
        trained, _ = compute.fabric.setup(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
        compute.fabric.backward(trained(torch.ones(1, 2)).sum())
        assert seen == [torch.float32, expected]
