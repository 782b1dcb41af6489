"""Training in several processes, as torchrun starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file
from settings import ONE_AUGMENTATION, tracked, write_recipe
from torch import distributed, multiprocessing

from anomaly_ft.errors import DeviceError
from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.gaussian.statistics import accumulate, fit


def features(grouped: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (101, 3, 12) if grouped else (101, 12)
    return 5 + rng.standard_normal(shape) * rng.uniform(0.1, 3, 12)


def fit_share(rank: int, address: str, folder: str) -> None:
    """One of two processes: sums over every second feature, added up, fitted."""
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)

    def add(tensor: torch.Tensor) -> torch.Tensor:
        distributed.all_reduce(tensor)
        return tensor

    for grouped in (False, True):
        own = torch.from_numpy(features(grouped)[rank::2])
        gaussian = fit(accumulate([[batch] for batch in own.split(20)])[0].all_reduce_sum(add))
        found = {"mean": gaussian.mean, "whitening": gaussian.whitening, "shrinkage": gaussian.shrinkage}
        torch.save({**found, "count": gaussian.count}, Path(folder, f"{grouped}-{rank}.pt"))
    distributed.destroy_process_group()


def test_the_gaussian_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'meeting'}"
    multiprocessing.spawn(fit_share, (address, str(tmp_path)), nprocs=2)
    for grouped in (False, True):
        whole = fit(accumulate([[torch.from_numpy(features(grouped))]])[0])
        for rank in range(2):
            found = torch.load(tmp_path / f"{grouped}-{rank}.pt", weights_only=True)
            assert found["count"] == whole.count == 101
            for name in ("mean", "whitening", "shrinkage"):
                torch.testing.assert_close(found[name], getattr(whole, name), rtol=1e-10, atol=1e-10)


def test_shares_are_whole_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(7 * 2 * 2 * 3, dtype=np.uint8).reshape(7, 2, 2, 3)
    compute = make_compute(device="cpu", precision="fp32")
    assert compute.shard(pixels) is pixels
    fabric = type(compute.fabric)
    monkeypatch.setattr(fabric, "world_size", 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(fabric, "global_rank", rank)
        shares.append(compute.shard(pixels))
    sums = [share.sum((1, 2, 3)).astype(np.float64) for share in shares]

    def gather(parts: list[np.ndarray], own: np.ndarray) -> None:
        parts[:] = sums

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    assert np.array_equal(compute.all_gather(sums[2]), pixels.sum((1, 2, 3)))
    with pytest.raises(DeviceError, match="2 images are too few for 3 processes; start fewer"):
        compute.shard(pixels[:2])


def recipe_of(folder: Path, root: Path, *, epochs: int, store: str = "", changes: Sequence[str] = ()) -> Path:
    """The recipe of a run in batches of five that never stops early."""
    changes = [*changes, "name=tiny", "optimizer.batch_size=5", f"schedule.max_epochs={epochs}"]
    changes += ["expert.schedule.patience=1000", "expert.schedule.margin=1000", *ONE_AUGMENTATION]
    changes += tracked(store, "processes") if store else ()
    return write_recipe(folder / "tiny.yaml", root, *changes)


def command(processes: int, recipe: Path, output: Path) -> list[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
    return [*start, "anomaly_ft", "train", str(recipe), "--output", str(output), "--json"]


@pytest.mark.slow
def test_two_processes_train_as_one(mvtec_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, mvtec_folder, epochs=2)
    runs = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        done = subprocess.run(
            command(processes, recipe, output), capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert "Warning: " not in done.stderr
        assert len(done.stdout.splitlines()) == 1, "one process speaks"
        assert [path.name for path in output.iterdir() if path.is_dir()] == ["tiny-001"]
        runs.append(output / "tiny-001")
    histories = [pd.read_json(run / "history.jsonl", lines=True) for run in runs]
    pd.testing.assert_frame_equal(*histories, rtol=1e-3, atol=1e-4)
    one, two = (json.loads((run / "summary.json").read_text()) for run in runs)
    assert (two["best_epoch"], two["stop_reason"]) == (one["best_epoch"], one["stop_reason"])
    assert two["test"] == pytest.approx(one["test"], abs=1e-3)
    weights = [load_file(run / "encoder" / "model.safetensors") for run in runs]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=1e-3, atol=1e-4)


STEPS = """
import sys
from pathlib import Path

import torch
from torch import nn

from anomaly_ft.finetune.loop import Backward, train_epoch
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import make_method
from anomaly_ft.run.training import training_batches


class Exact(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3 * 64 * 64, 4, dtype=torch.float64)

    def forward(self, images):
        return self.net(images.double().flatten(1) / 255).square().sum(1).mean()


setup = prepare(read_recipe(Path(sys.argv[1])), Terminal())
assert setup.variation
fabric, make_batch = setup.compute.fabric, training_batches(setup, make_method(setup))
torch.manual_seed(0)
objective, optimizer = fabric.setup(exact := Exact(), torch.optim.Adam(exact.parameters(), lr=1e-3))
state = LoopState(objective, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=1))
train_epoch(state, Backward(fabric), map(make_batch, range(7)), lambda state, ended: None)
assert state.step == 7
if fabric.global_rank == 0:
    torch.save(exact.state_dict(), sys.argv[2])
"""


@pytest.mark.slow
def test_with_variation_two_processes_step_as_one_to_rounding(mvtec_folder: Path, tmp_path: Path) -> None:
    """Batches of five are shared as three and two; everything but the real encoder's float32 is as in a run."""
    recipe = recipe_of(tmp_path, mvtec_folder, epochs=2, changes=("variation.preset=camera",))
    (tmp_path / "steps.py").write_text(STEPS)
    found = []
    for processes in (1, 2):
        start = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if processes > 1 else []
        result = tmp_path / f"{processes}.pt"
        asked = [sys.executable, *start, str(tmp_path / "steps.py"), str(recipe), str(result)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(torch.load(result, weights_only=True))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-10, atol=1e-10)


def process_of_rank(rank: int, parent: int) -> int:
    """The id of a process that torchrun started."""
    for entry in Path("/proc").iterdir():
        try:
            own = entry.name.isdigit() and f"PPid:\t{parent}\n" in (entry / "status").read_text()
            if own and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    raise LookupError(rank)


@pytest.mark.slow
@pytest.mark.faults
def test_a_process_that_dies_ends_the_run_as_failed(mvtec_folder: Path, tmp_path: Path, store: str) -> None:
    recipe, output = recipe_of(tmp_path, mvtec_folder, epochs=1000, store=store), tmp_path / "runs"
    torchrun = subprocess.Popen(
        command(2, recipe, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        history = output / ".tiny-001.partial" / "history.jsonl"
        deadline = time.monotonic() + 400
        while not (history.is_file() and history.read_text().count("\n") > 1):
            assert torchrun.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        os.kill(process_of_rank(1, torchrun.pid), signal.SIGKILL)
        assert torchrun.wait(timeout=120) != 0
    finally:
        torchrun.kill()
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("processes")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert not (output / "tiny-001").exists()
