"""Maps against masks written to disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.localisation import attention_share, image_size, localise

HEIGHT, WIDTH, GRID = 24, 36, 6
DECODER = Decoder(48)


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def record(folder: Path, i: int, kind: str, mask: np.ndarray | None) -> Record:
    path = write(folder / kind / f"{i}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    if mask is not None:
        write(folder / "masks" / f"{i}.png", mask.astype(np.uint8) * 255)
    name = path.relative_to(folder).as_posix()
    return Record(folder, name, "test", kind, "" if mask is None else f"masks/{i}.png")


def square(top: int, left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 8, left : left + 12] = True
    return mask


def as_grid(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(GRID, HEIGHT // GRID, GRID, WIDTH // GRID).mean((1, 3)).astype(np.float32)


def test_a_map_that_shows_the_masks_is_found_good_and_another_bad(tmp_path: Path) -> None:
    masks = [None, square(0, 0), square(8, 12)]
    records = [record(tmp_path, i, "good" if m is None else "hole", m) for i, m in enumerate(masks)]
    right = np.stack([np.zeros((GRID, GRID), np.float32), *(as_grid(m) for m in masks if m is not None)])
    rng = np.random.default_rng(0)
    found = localise(
        records, {"right": right, "contribution": rng.normal(1, 0.3, right.shape).astype(np.float32)}, DECODER
    )
    assert found.numbers["pixel_auroc"] > 0.97
    assert found.numbers["pixel_aupro"] > 0.9
    assert found.numbers["contribution_pixel_auroc"] < 0.8
    assert (found.regions, found.with_mask, found.empty_masks, found.without_mask) == (2, 2, 0, 0)
    assert set(found.by_image) == {1, 2}
    assert min(found.by_image.values()) > 0.97


def test_what_is_outlined_is_measured_at_the_maps_own_limit_where_it_has_one(tmp_path: Path) -> None:
    masks = [square(0, 0), None, square(8, 12)]  # the order of good and bad does not matter
    records = [record(tmp_path, i, "good" if m is None else "hole", m) for i, m in enumerate(masks)]
    maps = np.stack([np.zeros((GRID, GRID), np.float32) if m is None else as_grid(m) for m in masks])
    found = localise(records, {"dense": maps, "contribution": maps}, DECODER, 0.5)
    assert found.numbers["pixel_f1"] > 0.9
    assert found.numbers["pixel_aupimo"] > 0.9
    assert localise(records, {"dense": maps}, DECODER, 5.0).numbers["pixel_f1"] == 0.0
    assert "pixel_f1" not in localise(records, {"dense": maps}, DECODER).numbers
    of_anomalies_alone = localise([records[0], records[2]], {"dense": maps[[0, 2]]}, DECODER, 0.5)
    assert of_anomalies_alone.numbers["pixel_aupimo"] is None


def test_pixel_numbers_are_taken_at_the_size_of_the_masks(tmp_path: Path) -> None:
    from anomaly_ft.model.maps import upsample

    rng = np.random.default_rng(1)
    masks = [None, square(3, 5)]
    records = [record(tmp_path, i, "good" if m is None else "hole", m) for i, m in enumerate(masks)]
    maps = rng.normal(2, 1, (2, GRID, GRID)).astype(np.float32)
    found = localise(records, {"dense": maps, "contribution": maps}, DECODER)
    labels = np.concatenate([np.zeros(HEIGHT * WIDTH), square(3, 5).ravel()])
    scores = np.concatenate([upsample(m, HEIGHT, WIDTH, DECODER).ravel() for m in maps])
    assert found.numbers["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)


def test_masks_that_say_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [
        record(tmp_path, 0, "good", None),
        record(tmp_path, 1, "hole", square(0, 0)),
        record(tmp_path, 2, "hole", np.zeros((HEIGHT, WIDTH), bool)),
        record(tmp_path, 3, "scratch", None),
        record(tmp_path, 4, "hole", square(0, 0)),
    ]
    assert records[4].mask is not None
    records[4].mask.write_bytes(b"no image")
    maps = np.stack([as_grid(square(0, 0))] * 5)
    maps[0] = 0
    found = localise(records, {"dense": maps, "contribution": maps}, DECODER)
    assert (found.with_mask, found.empty_masks, found.without_mask, found.unreadable_masks) == (1, 1, 1, 1)
    alone = localise(records[:2], {"dense": maps[:2], "contribution": maps[:2]}, DECODER)
    assert found.numbers == alone.numbers


def test_without_any_mask_there_is_no_pixel_number(tmp_path: Path) -> None:
    records = [record(tmp_path, 0, "good", None), record(tmp_path, 1, "hole", None)]
    ones = np.ones((2, GRID, GRID), np.float32)
    found = localise(records, {"dense": ones, "contribution": ones}, DECODER)
    assert len(found.numbers) == 9
    assert set(found.numbers.values()) == {None}
    assert found.without_mask == 1


def test_a_kind_whose_contribution_lies_beside_the_mask_is_flagged(tmp_path: Path) -> None:
    records = [
        record(tmp_path, 0, "good", None),
        record(tmp_path, 1, "seen", square(0, 0)),
        record(tmp_path, 2, "unseen", square(0, 0)),
    ]
    maps = np.stack([np.ones((GRID, GRID)), as_grid(square(0, 0)), as_grid(square(16, 24))]).astype(np.float32)
    attention = {a.kind: a for a in localise(records, {"dense": maps, "contribution": maps}, DECODER).attention}
    assert not attention["seen"].elsewhere
    assert attention["unseen"].elsewhere
    assert attention["seen"].inside > 0.6
    assert attention["seen"].area == pytest.approx(square(0, 0).mean())


def test_only_what_raises_the_score_is_shared_out() -> None:
    contribution = np.array([[3.0, 1.0], [-2.0, 0.0]], np.float32)
    mask = np.array([[True, False], [True, False]])
    assert attention_share(contribution, mask) == (0.75, 0.5)
    assert attention_share(-np.ones((2, 2), np.float32), mask) == (0.0, 0.5)


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    image.save(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "plain.jpg") == (HEIGHT, WIDTH)
    assert image_size(tmp_path / "turned.jpg") == (WIDTH, HEIGHT)
