import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

import anomaly_ft.finetune.checkpoint
from anomaly_ft.errors import RunError
from anomaly_ft.finetune.checkpoint import Checkpoints, decode, encode
from anomaly_ft.finetune.early_stopping import StoppingRule
from anomaly_ft.finetune.loop import Backward, fine_tune
from anomaly_ft.finetune.records import EpochRecord, Validation
from anomaly_ft.finetune.state import LoopState

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True),
}
STEPS = 4  # of an epoch


class KilledError(BaseException):
    """Stands for a process that is gone."""


class Line(nn.Module):
    """Noise from the global generator reaches the loss, so that a generator set back would be noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def forward(self, batch: Tensor) -> Tensor:
        noise = torch.rand(()) + random.random() + float(np.random.random())
        return 1 + (self.conv(batch) - noise).square().mean()


class Training:
    """A process that trains: made anew for each life."""

    def __init__(self, optimizer: str = "adam", precision: Precision | None = None) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.fabric = Fabric(accelerator="cpu", devices=1, plugins=precision)
        module = Line()
        self.objective, made = self.fabric.setup(module, OPTIMIZERS[optimizer](module.parameters()))
        self.state = LoopState(self.objective, made, LinearLR(made, start_factor=0.1, total_iters=6))
        self.state.precision = self.fabric.strategy.precision

    def validate(self) -> Validation:
        shown = float(self.objective.conv.weight.detach().sum())
        return Validation(
            0.8 + 0.01 * len(self.state.records), {"scar": shown}, {"scar": np.full(5, shown)}, shown
        )

    def run(
        self, keep: Callable[[LoopState, bool], None] = lambda state, ended: None, epochs: int = 3
    ) -> list[EpochRecord]:
        list(
            fine_tune(
                self.state,
                Backward(self.fabric),
                _batches,
                self.validate,
                StoppingRule(epochs, patience=9),
                keep,
            )
        )
        return self.state.records


def _batches(epoch: int, done: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(epoch)
    yield from [torch.randn(2, 3, 5, 5, generator=generator) for _ in range(STEPS)][done:]


def facts(records: list[EpochRecord]) -> list[Any]:
    """All that does not depend on the clock."""
    return [(r.epoch, r.train_loss, repr(r.validation), r.verdict, r.images) for r in records]


@pytest.mark.parametrize(
    ("dies_at", "optimizer"), [(0, "adam"), (3, "adam"), (4, "adam"), (7, "adamw"), (6, "sgd")]
)
def test_a_process_that_dies_at_any_step_leaves_what_the_next_one_goes_on_from(
    dies_at: int, optimizer: str, tmp_path: Path
) -> None:
    whole = Training(optimizer)
    expected = facts(whole.run())
    first, kept = Training(optimizer), Checkpoints(tmp_path, minutes=0)
    steps = 0

    def keep(state: LoopState, ended: bool) -> None:
        nonlocal steps
        kept.keep(state, ended)
        steps += not ended
        if steps >= dies_at:
            raise KilledError

    with pytest.raises(KilledError):
        first.run(keep)
    second = Training(optimizer)
    torch.manual_seed(99)
    stored = Checkpoints(tmp_path).read()
    assert stored is not None
    second.state.load_state_dict(stored)
    assert facts(second.run()) == expected
    for key, value in whole.objective.state_dict().items():
        assert torch.equal(second.objective.state_dict()[key], value), key


def test_a_process_that_dies_in_half_precision_leaves_the_scale_of_its_gradients(tmp_path: Path) -> None:
    def training() -> Training:
        return Training("sgd", MixedPrecision("16-mixed", "cpu"))

    whole = training()
    at_first = whole.state.precision.state_dict()
    expected = facts(whole.run())
    first, kept = training(), Checkpoints(tmp_path, minutes=0)

    def keep(state: LoopState, ended: bool) -> None:
        kept.keep(state, ended)
        if state.step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        first.run(keep)
    second = training()
    kept.restore(second.state)
    assert second.state.precision.state_dict() == first.state.precision.state_dict() != at_first
    assert facts(second.run()) == expected
    for key, value in whole.objective.state_dict().items():
        assert torch.equal(second.objective.state_dict()[key], value), key


def test_a_checkpoint_is_written_at_the_end_of_each_epoch_and_when_the_last_one_is_old(tmp_path: Path) -> None:
    seldom, often = Checkpoints(tmp_path / "seldom", minutes=60), Checkpoints(tmp_path / "often", minutes=0)
    written: dict[str, list[int]] = {"seldom": [], "often": []}

    def keep(state: LoopState, ended: bool) -> None:
        for name, checkpoints in (("seldom", seldom), ("often", often)):
            before = sorted(checkpoints.folder.glob("*.json"))
            checkpoints.keep(state, ended)
            if sorted(checkpoints.folder.glob("*.json")) != before:
                written[name].append(state.step)

    Training().run(keep, epochs=2)
    assert written["seldom"] == [0, 0, 0]
    assert written["often"] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]


def test_more_epochs_than_at_first_go_on_from_the_last_and_not_from_the_best(tmp_path: Path) -> None:
    expected = facts(Training().run(epochs=4))
    first, kept = Training(), Checkpoints(tmp_path)
    assert first.run(kept.keep, epochs=2)[-1].verdict.reason == "max_epochs"
    second = Training()
    second.state.load_state_dict(kept.read() or {})
    assert facts(second.run(epochs=4)) == expected


def test_a_training_that_had_ended_gives_back_the_best_weights_and_trains_no_more(tmp_path: Path) -> None:
    first, kept = Training(), Checkpoints(tmp_path)
    expected = facts(first.run(kept.keep))
    second = Training()
    second.state.load_state_dict(kept.read() or {})
    assert facts(second.run()) == expected
    assert torch.equal(second.objective.conv.weight, first.objective.conv.weight)


def test_the_one_before_is_kept_until_the_new_one_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path)
    kept.write({"step": 1})
    kept.write({"step": 2})
    assert {p.name for p in tmp_path.iterdir()} == {"00000002.json", "00000002.safetensors"}

    def unreadable(self: Checkpoints, name: str) -> None:
        raise ValueError("damaged on its way to the disk")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_read", unreadable)
        with pytest.raises(OSError, match="damaged on its way to the disk"):
            kept.write({"step": 3})
    (tmp_path / "00000003.json").write_text("{")
    assert kept.read() == {"step": 2}
    kept.write({"step": 4})
    assert kept.read() == {"step": 4}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("file", ["00000001.json", "00000001.safetensors"])
def test_dying_at_any_file_of_a_checkpoint_leaves_the_one_before(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path)
    kept.write({"weights": torch.ones(3)})
    write = anomaly_ft.finetune.checkpoint.write_bytes

    def dies(path: Path, content: bytes) -> None:
        if path.suffix == Path(file).suffix:
            path.with_name(f".{path.name}.new").write_bytes(content[: len(content) // 2])
            raise KilledError
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(anomaly_ft.finetune.checkpoint, "write_bytes", dies)
        with pytest.raises(KilledError):
            kept.write({"weights": torch.zeros(3)})
    assert torch.equal((kept.read() or {})["weights"], torch.ones(3))
    kept.write({"weights": torch.zeros(3)})
    assert torch.equal((kept.read() or {})["weights"], torch.zeros(3))


@pytest.mark.parametrize(
    "damage", ["tensor of other content", "half of the tensors", "not JSON", "other format", "deep JSON"]
)
def test_a_damaged_checkpoint_is_never_read_and_said(damage: str, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.write({"weights": torch.ones(300)})
    tensors, document = tmp_path / "00000001.safetensors", tmp_path / "00000001.json"
    if damage == "tensor of other content":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    elif damage == "half of the tensors":
        tensors.write_bytes(tensors.read_bytes()[:-600])
    else:
        document.write_text(
            {"not JSON": "{", "other format": '{"format": 9}', "deep JSON": "[" * 10**5}[damage]
        )
    with pytest.raises(RunError, match=r"no checkpoint in it can be read \(.*start a new run without --resume"):
        kept.read()


def test_where_nothing_was_kept_there_is_nothing(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "never made").read() is None


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.dictionaries(st.sampled_from(["tensor", "items", "tuple", "float"]), inner)
    ),
)


@settings(max_examples=50, deadline=None)
@given(trees)
def test_a_tree_comes_back_from_json_as_it_was(tree: Any) -> None:
    text = json.dumps(encode(tree, {}), allow_nan=False)
    assert decode(json.loads(text), {}) == tree


@pytest.mark.parametrize(
    "array", [np.arange(3, dtype=np.uint32), np.array([[1.5, math.nan]]), np.zeros(0), np.ones(2, np.float32)]
)
def test_arrays_and_tensors_of_every_type_come_back(array: np.ndarray, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.write({"array": array, "tensor": torch.from_numpy(array), "number": math.nan})
    found = kept.read() or {}
    np.testing.assert_array_equal(found["array"], array)
    assert found["array"].dtype == array.dtype
    assert found["tensor"].dtype == torch.from_numpy(array).dtype
    assert math.isnan(found["number"])


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    once, twice = Checkpoints(tmp_path / "once"), Checkpoints(tmp_path / "twice")
    once.write({"a": torch.ones(10_000)})
    twice.write({"a": torch.ones(10_000), "b": torch.ones(10_000)})
    sizes = [(c.folder / "00000001.safetensors").stat().st_size for c in (once, twice)]
    assert sizes[0] == sizes[1]


def test_what_is_no_plain_value_cannot_be_stored() -> None:
    with pytest.raises(TypeError, match="a Fabric cannot be part of a checkpoint"):
        encode({"fabric": Fabric(accelerator="cpu", devices=1)}, {})
