from collections.abc import Callable

import numpy as np
import pytest
import torch
from settings import detector_settings
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError
from anomaly_ft.finetune.methods.gaussian_objective import InducedDistance
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.early_activations import EarlyActivations
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.encoder.module_chain import find_chain
from anomaly_ft.model.gaussian.cache_early import run_early
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.model.inference import score_images

Textures = Callable[[int, int, int], np.ndarray]
ROOM = 10**9
TRAINED = ["blocks.3", "blocks.4", "conv_head"]


@pytest.fixture
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32", batch_size=5)


@pytest.fixture
def encoder(compute: Compute) -> Encoder:
    """An EfficientNet of which only the last stages and the head train."""
    encoder = compute.prepare(load_encoder("test_efficientnet", "random", image_size=64))
    encoder.train_only(TRAINED)
    return encoder


def images_of(encoder: Encoder, count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "block", "tail"),
    [
        ("test_efficientnet", "blocks.3", ["blocks.3", "blocks.4", "conv_head", "bn2"]),
        ("test_vit", "blocks.4", ["blocks.4", "blocks.5", "norm"]),
        ("test_convnext", "stages.3", ["stages.3", "norm_pre"]),
        ("test_resnet", "layer3", ["layer3", "layer4"]),
        ("swin_tiny_patch4_window7_224", "layers.3", ["layers.3", "norm"]),
        ("densenet121", "features.denseblock4", ["features.denseblock4", "features.norm5"]),
    ],
)
@torch.no_grad()
def test_what_comes_after_frozen_blocks_gives_the_maps_of_the_whole(
    name: str, block: str, tail: list[str]
) -> None:
    encoder = load_encoder(name, "random", image_size=64)
    encoder.train_only([block])
    images = images_of(encoder)
    assert encoder.tail == tail
    for whole, rest in zip(encoder(images), encoder(encoder.early_activations(images)), strict=True):
        torch.testing.assert_close(rest, whole, rtol=0, atol=0)


def test_a_block_within_a_stage_starts_at_its_stage() -> None:
    encoder = load_encoder("test_efficientnet", "random", image_size=64)
    encoder.train_only(["blocks.3.0"])
    assert encoder.tail[0] == "blocks.3"
    assert encoder.early == ("bn1", "blocks.0", "blocks.1", "blocks.2")


@pytest.mark.parametrize("blocks", ["all", ["conv_stem", "blocks.4"]])
def test_where_the_first_block_trains_nothing_is_frozen(blocks: list[str]) -> None:
    encoder = load_encoder("test_efficientnet", "random", image_size=64)
    encoder.train_only(["blocks.4"])
    encoder.train_only(blocks)
    assert (encoder.tail, encoder.early) == ([], ())
    with pytest.raises(EncoderError, match="no early part of the encoder is frozen"):
        encoder.early_activations(images_of(encoder))


def test_where_something_trains_outside_of_the_chain_nothing_is_taken_for_frozen() -> None:
    encoder = load_encoder("test_vit", "random", image_size=64)
    encoder.train_only(["patch_embed", "blocks.5"])
    assert encoder.tail == []


class Skipping(nn.Module):
    """The third module is given more than what the second one gave."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        result: Tensor = self.d(self.c(self.b(first) + first))
        return result


def test_a_chain_ends_where_a_module_is_given_more_than_the_last_output() -> None:
    model = Skipping()
    result, chain = find_chain(model, [], lambda: model(torch.ones(1, 4)))
    assert chain == ["c", "d"]
    assert result.shape == (1, 4)


def test_a_module_that_runs_twice_ends_the_chain() -> None:
    model = nn.Module()
    model.a, model.b = nn.Linear(4, 4), nn.Linear(4, 4)
    _, chain = find_chain(model, [], lambda: model.b(model.a(model.b(torch.ones(1, 4)))))
    assert chain == ["a", "b"]


@pytest.mark.parametrize("grid", [4, 5])
def test_scores_from_early_activations_are_the_scores_of_the_images(
    encoder: Encoder, compute: Compute, make_textures: Textures, grid: int
) -> None:
    pixels, held_out, settings = make_textures(12, 64, 1), make_textures(4, 64, 2), detector_settings(grid=grid)
    detector = fit_detector(encoder, pixels, held_out, compute, settings)
    kept = run_early(encoder, held_out, compute, settings, ROOM)
    assert kept is not None
    assert len(kept) == 4
    expected = score_images(detector, held_out, compute)
    for name, scores in score_images(detector, kept, compute).items():  # type: ignore[arg-type]
        np.testing.assert_allclose(scores, expected[name], rtol=1e-5, atol=1e-5)


def test_training_from_early_activations_has_the_gradients_of_training_from_images(
    encoder: Encoder, compute: Compute, make_textures: Textures
) -> None:
    pixels, settings = make_textures(12, 64, 1), detector_settings(grid=4)
    objective = InducedDistance(fit_detector(encoder, pixels, pixels[:4], compute, settings))
    kept = run_early(encoder, pixels, compute, settings, ROOM)
    assert kept is not None
    chosen = np.array([7, 2, 11])
    gradients = []
    for batch in (compute.batch(pixels[chosen]), compute.batch(kept[chosen])):
        encoder.zero_grad()
        objective(batch).backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert {name.split(".")[1] for name in gradients[0]} == {"blocks", "conv_head"}
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_what_is_kept_is_no_more_than_there_is_room_for(
    encoder: Encoder, compute: Compute, make_textures: Textures
) -> None:
    pixels, settings = make_textures(6, 64, 1), detector_settings(grid=4)
    kept = run_early(encoder, pixels, compute, settings, ROOM)
    assert kept is not None
    assert run_early(encoder, pixels, compute, settings, kept.nbytes) is not None
    assert run_early(encoder, pixels, compute, settings, kept.nbytes - 1) is None
    whole = sum(level.nbytes for level in encoder(compute.batch(pixels)))
    assert kept.nbytes < whole / 3


def test_what_is_taken_out_of_early_activations_may_be_changed(encoder: Encoder) -> None:
    encoder.requires_grad_(False)
    kept = encoder.early_activations(images_of(encoder, 4).contiguous(memory_format=torch.channels_last))
    before = kept.activation.clone()
    taken = kept[1:3]
    assert torch.equal(taken.activation, before[1:3])
    assert taken.activation.is_contiguous(memory_format=torch.channels_last)
    taken.activation.zero_()
    assert torch.equal(kept.activation, before)
    assert torch.equal(kept[np.array([True, False, False, True])].activation, before[[0, 3]])


def test_nothing_is_kept_of_an_encoder_that_trains_from_the_start(
    encoder: Encoder, compute: Compute, make_textures: Textures
) -> None:
    encoder.train_only("all")
    assert run_early(encoder, make_textures(3, 64, 1), compute, detector_settings(grid=4), ROOM) is None


def test_fabric_hands_early_activations_on_untouched(compute: Compute) -> None:
    seen = []

    class Listener(nn.Module):
        def forward(self, images: EarlyActivations) -> Tensor:
            seen.append(images)
            return images.activation.sum()

    given = EarlyActivations(torch.ones(2, 3, dtype=torch.bfloat16), [torch.ones(2, 1, 1, 1)])
    compute.fabric.setup(Listener())(given)
    assert seen == [given]


def gradients_of(encoder: Encoder, batch: Tensor | EarlyActivations) -> tuple[dict[str, Tensor], int]:
    """Gradients of a sum over all maps, and the bytes kept for the backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    encoder.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.stack([level.square().mean() for level in encoder(batch)]).sum().backward()
    return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext", "test_resnet"])
def test_activations_computed_again_give_the_same_gradients_with_less_memory(name: str) -> None:
    encoder = load_encoder(name, "random", image_size=64)
    images = images_of(encoder)
    expected, much = gradients_of(encoder, images)
    encoder.checkpoint_gradients()
    found, little = gradients_of(encoder, images)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)
    assert little < 0.6 * much
    assert not encoder._seen, "nothing of the backward pass is held on to"


def test_activations_are_computed_again_from_early_activations_too(encoder: Encoder) -> None:
    images = images_of(encoder)
    with torch.no_grad():
        early = encoder.early_activations(images)
    expected, much = gradients_of(encoder, early)
    encoder.checkpoint_gradients()
    found, little = gradients_of(encoder, early)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)
    assert little < much


def test_an_encoder_that_is_no_chain_says_how_else_to_save_memory(encoder: Encoder) -> None:
    encoder._chain = ["bn2"]
    with pytest.raises(
        EncoderError, match=r"expert.runtime.gradient_checkpointing.*lower expert.runtime.micro_batch_size"
    ):
        encoder.checkpoint_gradients()


@torch.no_grad()
def test_a_compiled_encoder_gives_the_same_maps(encoder: Encoder) -> None:
    images = images_of(encoder)
    expected = encoder(images)
    encoder.compile_parts(backend="eager")  # traces as any backend does, and translates nothing
    for batch in (images, encoder.early_activations(images)):
        for level, wanted in zip(encoder(batch), expected, strict=True):
            torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-5)
