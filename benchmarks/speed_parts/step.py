"""Training steps of the real loop against a bare one."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from anomaly_ft.finetune.checkpoint import Checkpoints
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.summary import epoch_metrics, history_line
from anomaly_ft.run.train import METHODS
from anomaly_ft.run.training import epochs, loop_state
from anomaly_ft.system.files import append_json_line
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker
from speed_parts.clock import CLOCKS, in_turns, show_ratios
from speed_parts.prepared import prepare_run
from speed_parts.watched import Unmoved


def step(options: argparse.Namespace) -> None:
    """Epochs whose validation counts nothing: loader, augmentation, loss, optimiser, log."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = [f"schedule.{key}=1000000" for key in ("max_epochs", "max_steps")]
        wanted += [f"expert.schedule.{key}=1000000" for key in ("patience", "margin")]
        wanted += [f"expert.schedule.epoch_steps={options.steps}"]
        setup = prepare_run(options, folder, 200, *wanted)
        size = setup.recipe.optimizer.batch_size
        uri = setup.recipe.tracking.uri
        with make_tracker(TrackedRun("speed", "speed"), enabled=True, uri=uri, output=folder) as tracker:
            method = METHODS["gaussian"](setup)
            method.fit()
            state = loop_state(setup, method)
            checkpoints = Checkpoints(folder / "checkpoint", setup.recipe.runtime.checkpoint_minutes)
            records = epochs(setup, state, Unmoved(10, method), checkpoints.keep)
            next(records)  # the pretrained encoder

            def whole() -> None:
                record = next(records)
                append_json_line(folder / "history.jsonl", history_line(record))
                tracker.metrics(epoch_metrics(record), record.epoch)

            images = torch.from_numpy(setup.inputs("train")[:size]).permute(0, 3, 1, 2)
            bare, loss = bare_step(setup, images), loss_step(setup, state, images)
            contestants = {
                "bare loop": lambda: repeat(bare, options.steps),
                "our loss, tensors in memory": lambda: repeat(loss, options.steps),
                "train": whole,
            }
            seconds = in_turns(contestants, options.repeats, CLOCKS[options.clock])
    how = f"{setup.recipe.data.image_size} px, {setup.recipe.encoder.name}, {setup.recipe.runtime.precision}"
    title = f"{options.steps} training steps of {size} images, {how}, {options.clock} seconds"
    show_ratios(title, seconds, "bare loop", options.steps * size)


def bare_step(setup: Setup, images: Tensor) -> Callable[[], object]:
    """Encoder forward, backward and Adam; the images are normalised already."""
    encoder = load_encoder(setup.recipe.encoder.name, setup.recipe.encoder.weights)
    setup.compute.prepare(encoder)
    model, ready = encoder.model, ((images.float() - encoder.mean) / encoder.std)
    for hooked in model.modules():
        hooked._forward_hooks.clear()
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)

    def work() -> None:
        with setup.compute.fabric.autocast():
            loss = model.forward_features(ready).float().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return work


def loss_step(setup: Setup, state: LoopState, images: Tensor) -> Callable[[], object]:
    """The same with our objective, on a batch that lies ready."""

    def work() -> None:
        setup.compute.fabric.backward(state.objective(images))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

    return work


def repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()
