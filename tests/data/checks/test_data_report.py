"""`anomaly-ft data`: what it counts, and every trouble on files made here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.data.checks.report import inspect
from anomaly_ft.data.checks.thumbnails import contact_sheet
from anomaly_ft.data.duplicates import near_duplicates, thumbnail
from anomaly_ft.data.splits import Shares

SHARES = Shares(val=0.2, calibration=0.2)


@pytest.fixture
def root(tmp_path, paint):
    """A set in order: 12 good images to train with, a good and two cracked ones to test with."""
    for i in range(12):
        paint(f"train/good/{i:02}.png", size=(40, 30))
    paint("test/good/0.png", size=(40, 30))
    for i in range(2):
        paint(f"test/crack/{i}.png", size=(40, 30))
        paint(f"ground_truth/crack/{i}_mask.png", size=(40, 30), half=True)
    return tmp_path


def troubles(root, **how):
    return {t.kind: t.files for t in inspect(str(root), shares=SHARES, **how).troubles}


def test_a_set_in_order_has_no_troubles(root):
    report = inspect(str(root), shares=SHARES, threads=2)
    assert report.layout == "mvtec"
    assert report.counts == {"train": {"good": 12}, "test": {"good": 1, "crack": 2}}
    assert (report.sizes, report.modes) == ({"40x30": 15}, {"L": 15})
    assert report.split == {"train": 8, "val": 2, "calibration": 2, "test": 3}
    assert report.troubles == ()
    assert "no troubles found" in "\n".join(report.lines())


def test_good_images_only_say_that_there_is_no_test(tmp_path, paint):
    for i in range(12):
        paint(f"{i}.png")
    assert "can give no test number" in "\n".join(inspect(str(tmp_path), shares=SHARES).lines())


def test_too_few_images_say_why_they_cannot_be_split(tmp_path, paint):
    paint("a.png")
    report = inspect(str(tmp_path), shares=SHARES)
    assert report.split == {}
    assert "too few" in "\n".join(report.lines())


def test_unreadable_files_are_named(root):
    (root / "train/good/00.png").write_bytes(b"")
    whole = (root / "test/crack/0.png").read_bytes()
    (root / "test/crack/0.png").write_bytes(whole[: len(whole) // 2])
    (root / "test/good/0.png").write_bytes(b"no image")
    assert [line.split(": ")[0] for line in troubles(root)["unreadable"]] == [
        "train/good/00.png",
        "test/good/0.png",
        "test/crack/0.png",
    ]


def test_a_mask_without_a_defect_is_named(root, paint):
    paint("ground_truth/crack/0_mask.png", size=(40, 30), value=0)
    assert troubles(root) == {"empty mask": ("ground_truth/crack/0_mask.png",)}


def test_a_mask_that_marks_nearly_all_of_its_image_is_named(root, paint):
    paint("ground_truth/crack/0_mask.png", size=(40, 30), value=255)
    assert troubles(root) == {"full mask": ("ground_truth/crack/0_mask.png",)}


def test_a_mask_of_another_size_is_named(root, paint):
    paint("ground_truth/crack/1_mask.png", size=(41, 30), half=True)
    assert troubles(root) == {"mask size": ("ground_truth/crack/1_mask.png: 41x30, test/crack/1.png: 40x30",)}


def test_a_mask_for_the_stored_picture_of_one_on_its_side_is_of_another_size(root):
    with Image.open(root / "test/crack/0.png") as stored:
        image = stored.copy()
    exif = Image.Exif()
    exif[274] = 6
    image.save(root / "test/crack/0.png", exif=exif)
    assert "30x40" in troubles(root)["mask size"][0]


def test_a_mask_without_an_image_is_named(root, paint):
    paint("ground_truth/crack/7_mask.png", value=255)
    assert troubles(root) == {"mask without image": ("ground_truth/crack/7_mask.png",)}


def test_an_anomalous_image_without_a_mask_among_others_with_one_is_named(root):
    (root / "ground_truth/crack/1_mask.png").unlink()
    assert troubles(root) == {"no mask": ("test/crack/1.png",)}


def test_a_mask_that_cannot_be_read_is_named(root):
    (root / "ground_truth/crack/1_mask.png").write_bytes(b"no image")
    assert "ground_truth/crack/1_mask.png: not an image" in troubles(root)["mask"][0]


def test_a_copied_train_image_in_test_is_a_leak_that_train_refuses(root):
    shutil.copy(root / "train/good/03.png", root / "test/good/copy.png")
    report = inspect(str(root), shares=SHARES)
    assert [(t.kind, t.refused) for t in report.troubles] == [("leak", True)]
    assert report.troubles[0].files == ("train/good/03.png (train) = test/good/copy.png (test)",)


def test_copies_on_one_side_are_named(root):
    shutil.copy(root / "train/good/03.png", root / "train/good/copy.png")
    assert troubles(root) == {"copies": ("train/good/03.png = train/good/copy.png",)}


def test_names_that_differ_only_by_case_are_named(root, paint):
    paint("train/good/A.png", size=(40, 30))
    paint("train/good/a.png", size=(40, 30))
    if not (root / "train/good/A.png").samefile(root / "train/good/a.png"):
        assert troubles(root) == {"case": ("train/good/A.png, train/good/a.png",)}


def test_groups_on_both_sides_are_named(root, paint):
    assert troubles(root, group_by=r"(\d)\.png")["group"] == ("0", "1")


def picture(seed: int, size: int = 96) -> Image.Image:
    """Smooth random spots on the same bright disc, as photographs of one kind of part are alike."""
    spots = np.random.default_rng(seed).integers(0, 256, (12, 12), np.uint8)
    disc = Image.new("L", (size, size))
    disc.paste(255, (size // 8, size // 8, size * 7 // 8, size * 7 // 8))
    return Image.blend(disc, Image.fromarray(spots).resize((size, size), Image.Resampling.BICUBIC), 0.4)


def test_compressed_scaled_and_brightened_copies_look_alike_and_other_shots_do_not(tmp_path):
    pictures = [picture(seed) for seed in range(40)]
    pictures[3].save(tmp_path / "a.jpg", quality=60)
    with Image.open(tmp_path / "a.jpg") as stored:
        compressed = stored.copy()
    copies = [
        compressed,
        pictures[5].resize((64, 64)),
        pictures[7].point(lambda v: v * 1.05),
    ]
    found = near_duplicates(np.stack([thumbnail(p) for p in [*pictures, *copies]]))
    assert found == [(3, 40), (5, 41), (7, 42)]


def test_flat_pictures_are_no_lookalikes():
    flat = [Image.new("L", (40, 40), value) for value in (0, 90, 90, 255)]
    assert near_duplicates(np.stack([thumbnail(p) for p in flat])) == []


def test_a_recompressed_train_image_in_test_is_a_lookalike(root):
    for i in range(12):
        picture(i).save(root / f"train/good/{i:02}.png")
    picture(3).save(root / "test/good/again.jpg", quality=70)
    assert troubles(root) == {"lookalikes": ("train/good/03.png ~ test/good/again.jpg",)}


def test_values_that_need_a_range_are_no_trouble_here(root):
    Image.fromarray(np.random.default_rng(0).random((30, 40), np.float32)).save(root / "train/good/00.tif")
    assert troubles(root) == {}


def test_they_can_be_looked_at(root):
    Image.fromarray(np.tile(np.float32([-3, 5]), (40, 20))).save(root / "train/good/00.tif")
    contact_sheet(inspect(str(root), shares=SHARES).records, root / "out.png")
    with Image.open(root / "out.png") as sheet:
        first = np.asarray(sheet)[24:152, 6:134]
    assert (first.min(), first.max()) == (0, 255)
    assert (first != 128).any()


def test_many_sizes_are_said_from_the_least_to_the_most(tmp_path, paint):
    for i in range(12):
        paint(f"{i:02}.png", size=(20 + i, 90 - i))
    text = "\n".join(inspect(str(tmp_path), shares=SHARES).lines())
    assert "sizes     12 different, 20 to 31 wide, 79 to 90 high\nmodes     12 grey (L)" in text


def test_the_command_prints_json_for_programs(root):
    done = CliRunner().invoke(main, ["data", str(root), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"]["test"] == {"good": 1, "crack": 2}
    assert found["troubles"] == []


def test_the_command_says_what_is_wrong_with_a_root(tmp_path):
    done = CliRunner().invoke(main, ["data", str(tmp_path)])
    assert done.exit_code == 2
    assert "no images below" in done.stderr


def test_a_contact_sheet_has_a_row_for_each_kind(root):
    (root / "train/good/00.png").write_bytes(b"")
    out = root / "out.png"
    assert CliRunner().invoke(main, ["data", str(root), "--thumbnails", str(out)]).exit_code == 0
    with Image.open(out) as sheet:
        assert sheet.height > 3 * 128
    assert contact_sheet(inspect(str(root), shares=SHARES).records, out) == 8 + 1 + 2


@pytest.mark.parametrize("name", ["nowhere/out.png", "out.txt"])
def test_a_contact_sheet_that_cannot_be_written_is_an_error(root, name):
    done = CliRunner().invoke(main, ["data", str(root), "--thumbnails", str(root / name)])
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


def test_the_command_loads_no_torch(root):
    code = (
        "import sys; from click.testing import CliRunner; from anomaly_ft.cli.main import main\n"
        f"assert CliRunner().invoke(main, ['data', {str(root)!r}]).exit_code == 0\n"
        "assert not {'torch', 'albumentations', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_four_empty_masks_of_mtd_are_listed(real_data):
    found = troubles(real_data / "mtd")
    assert len(found["empty mask"]) == 4
    assert all("ground_truth/uneven/" in name for name in found["empty mask"])


@pytest.mark.parametrize(("highest", "dark"), [(4095, True), (65535, False)])
def test_deep_images_of_a_camera_with_fewer_bits_are_named(highest: int, dark: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, highest, (40, 40), np.uint16)).save(tmp_path / f"{i}.tif")
    report = inspect(str(tmp_path), shares=SHARES)
    found = [trouble for trouble in report.troubles if trouble.kind == "dark"]
    assert len(found) == dark
    assert all("data.range" in trouble.says and len(trouble.files) == 12 for trouble in found)


def test_deep_colour_of_a_camera_with_fewer_bits_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 4095, (40, 40, 3), np.uint16))
    assert [trouble.kind for trouble in inspect(str(tmp_path), shares=SHARES).troubles] == ["dark"]
