"""Every layout, on a tree made here: what it is taken for, and which records it yields."""

from pathlib import Path

import pytest

from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.layouts.detect import READERS, read_root
from anomaly_ft.data.records import Record, counts
from anomaly_ft.errors import DataError


def by_name(records: tuple[Record, ...]) -> dict[str, Record]:
    return {record.name: record for record in records}


def test_mvtec_pairs_images_with_their_masks(tmp_path, paint):
    for name in ("train/good/0.png", "test/good/0.png", "test/crack/0.png", "test/crack/1.png"):
        paint(name)
    mask = paint("ground_truth/crack/0_mask.png")
    reading = read_root(str(tmp_path))
    found = by_name(reading.records)
    assert (reading.layout, reading.why) == ("mvtec", "there is train/good")
    assert found["train/good/0.png"].split == "train"
    assert found["test/crack/0.png"].mask == mask
    assert found["test/crack/0.png"].mask_name == "ground_truth/crack/0_mask.png"
    assert found["test/crack/1.png"].mask is None
    assert counts([r for r in reading.records if r.split == "test"]) == {"good": 1, "crack": 2}


def test_btad_calls_good_ok_and_its_masks_like_the_image(tmp_path, paint):
    for name in ("train/ok/0.bmp", "test/ok/0.bmp", "test/ko/0.bmp"):
        paint(name)
    mask = paint("ground_truth/ko/0.png")
    reading = read_root(str(tmp_path))
    found = by_name(reading.records)
    assert reading.layout == "mvtec"
    assert not found["test/ok/0.bmp"].anomalous
    assert (found["test/ko/0.bmp"].kind, found["test/ko/0.bmp"].mask) == ("ko", mask)


def test_hidden_files_of_other_systems_are_no_images(tmp_path, paint):
    paint("train/good/0.png")
    paint("train/good/._0.png")
    paint("train/good/.thumbnails/0.png")
    assert list(by_name(read_root(str(tmp_path)).records)) == ["train/good/0.png"]


def visa(root: Path, paint, rows: list[str], where: str = "split_csv") -> None:
    for name in ("Normal/0.JPG", "Normal/1.JPG", "Anomaly/0.JPG"):
        paint(f"visa/candle/Data/Images/{name}")
    paint("visa/candle/Data/Masks/Anomaly/0.png")
    if rows:
        (root / "visa" / where).mkdir(parents=True)
        text = "\n".join(["object,split,label,image,mask", *rows]) + "\n"
        (root / "visa" / where / "1cls.csv").write_text(text)


VISA_ROWS = [
    "candle,train,normal,candle/Data/Images/Normal/0.JPG,",
    "candle,test,normal,candle/Data/Images/Normal/1.JPG,",
    "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png",
]


def test_visa_is_split_as_its_list_says(tmp_path, paint):
    visa(tmp_path, paint, [*VISA_ROWS, "pcb1,train,normal,pcb1/Data/Images/Normal/0.JPG,"])
    reading = read_root(str(tmp_path / "visa" / "candle"))
    found = by_name(reading.records)
    assert reading.layout == "visa"
    assert "../split_csv/1cls.csv" in reading.why
    assert [found[f"Data/Images/Normal/{i}.JPG"].split for i in (0, 1)] == ["train", "test"]
    assert found["Data/Images/Anomaly/0.JPG"].mask_name == "Data/Masks/Anomaly/0.png"


def test_visa_root_of_one_object_is_read_through_its_list(tmp_path, paint):
    visa(tmp_path, paint, VISA_ROWS)
    found = by_name(read_root(str(tmp_path / "visa")).records)
    assert found["candle/Data/Images/Anomaly/0.JPG"].anomalous


def test_visa_root_of_many_objects_names_them(tmp_path, paint):
    visa(tmp_path, paint, [*VISA_ROWS, "pcb1,train,normal,pcb1/Data/Images/Normal/0.JPG,"])
    with pytest.raises(DataError, match=r"2 objects.*visa/candle, .*visa/pcb1"):
        read_root(str(tmp_path / "visa"))


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("candle,train,normal,candle/Data/Images/Normal/9.JPG,", "not there: .*9.JPG"),
        ("candle,train,anomaly,candle/Data/Images/Anomaly/0.JPG,", "cannot be a training image"),
        ("candle,val,normal,candle/Data/Images/Normal/0.JPG,", r"expected split train\|test"),
    ],
)
def test_visa_list_with_a_wrong_row_is_refused(tmp_path, paint, row, match):
    visa(tmp_path, paint, [row])
    with pytest.raises(DataError, match=match):
        read_root(str(tmp_path / "visa" / "candle"))


def test_visa_list_without_its_columns_is_refused(tmp_path, paint):
    visa(tmp_path, paint, VISA_ROWS)
    (tmp_path / "visa/split_csv/1cls.csv").write_text("image,label\na,b\n")
    with pytest.raises(DataError, match="columns missing: mask, object, split"):
        read_root(str(tmp_path / "visa" / "candle"))


def test_raw_visa_leaves_its_normal_images_undecided(tmp_path, paint):
    visa(tmp_path, paint, [])
    reading = read_root(str(tmp_path / "visa" / "candle"))
    splits = [record.split for record in reading.records]
    assert splits == ["undecided", "undecided", "test"]
    assert reading.records[2].mask_name == "Data/Masks/Anomaly/0.png"


def test_raw_mtd_has_masks_of_the_same_name(tmp_path, paint):
    for name in ("MT_Free/Imgs/a.jpg", "MT_Free/Imgs/a.png", "MT_Crack/Imgs/b.jpg", "MT_Crack/Imgs/b.png"):
        paint(name)
    reading = read_root(str(tmp_path))
    assert reading.layout == "mtd"
    assert [(r.name, r.kind, r.mask_name) for r in reading.records] == [
        ("MT_Crack/Imgs/b.jpg", "crack", "MT_Crack/Imgs/b.png"),
        ("MT_Free/Imgs/a.jpg", "good", ""),
    ]


@pytest.mark.parametrize(("image", "mask"), [("kos1/{}.jpg", "kos1/{}_label.bmp"), ("{}.png", "{}_GT.png")])
def test_kolektor_pairs_with_an_empty_mask_are_normal(tmp_path, paint, image, mask):
    for name, value in (("fine", 0), ("broken", 255)):
        paint(image.format(name))
        paint(mask.format(name), value=value)
    reading = read_root(str(tmp_path))
    found = by_name(reading.records)
    assert reading.layout == "kolektor"
    assert not found[image.format("fine")].anomalous
    assert found[image.format("broken")].mask_name == mask.format("broken")
    assert len(found) == 2


def test_kolektor_folders_train_and_test_are_the_split_and_defects_in_train_are_left_out(tmp_path, paint):
    for name, value in (("train/0", 0), ("train/1", 9), ("test/2", 0), ("test/3", 9)):
        paint(f"{name}.png")
        paint(f"{name}_GT.png", value=value)
    found = by_name(read_root(str(tmp_path)).records)
    reading = read_root(str(tmp_path))
    assert [unused.names for unused in reading.unused if "left out" in unused.why] == [("train/1.png",)]
    assert {name: r.split for name, r in found.items()} == {
        "train/0.png": "train",
        "test/2.png": "test",
        "test/3.png": "test",
    }


def test_kolektor_image_without_a_mask_has_no_label(tmp_path, paint):
    paint("a.png")
    paint("a_GT.png", value=0)
    paint("b.png")
    with pytest.raises(DataError, match=r"1 of 2 images have no mask .* b\.png"):
        read_root(str(tmp_path))


def test_kolektor_mask_that_cannot_be_read_is_named(tmp_path, paint):
    paint("a.png")
    (tmp_path / "a_GT.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"leaves its image without label: .*a_GT\.png"):
        read_root(str(tmp_path))


def test_good_beside_other_folders_makes_them_defect_types(tmp_path, paint):
    for i in range(10):
        paint(f"good/{i}.png")
    paint("scratch/deep/0.png")
    mask = paint("ground_truth/scratch/deep/0_mask.png")
    reading = read_records(str(tmp_path))
    assert reading.layout == "folders"
    assert counts([r for r in reading.records if r.split == "test"]) == {"good": 2, "scratch": 1}
    assert next(r for r in reading.records if r.anomalous).mask == mask
    assert read_records(str(tmp_path)) == reading, "the fifth that is tested is always the same"


@pytest.mark.parametrize("names", [("0.png", "1.png"), ("a/0.png", "b/c/1.tif"), ("good/0.png", "good/1.png")])
def test_good_images_only_are_all_for_training(tmp_path, paint, names):
    for name in names:
        paint(name)
    reading = read_records(str(tmp_path))
    assert reading.layout == "plain"
    assert [r.split for r in reading.records] == ["train", "train"]


def test_a_folder_called_bad_is_not_taken_for_good_images(tmp_path, paint):
    paint("a/0.png")
    paint("Bad/0.png")
    with pytest.raises(DataError, match=r"Bad speaks against good images only(.|\n)*known layouts(.|\n)*mvtec"):
        read_root(str(tmp_path))
    assert len(read_root(str(tmp_path), layout="plain").records) == 2


def test_masks_among_images_are_not_taken_for_good_images(tmp_path, paint):
    paint("0.png")
    paint("0_mask.png")
    with pytest.raises(DataError, match=r"1 masks such as 0_mask.png speaks against"):
        read_root(str(tmp_path))


def test_several_sets_in_one_folder_are_named(tmp_path, paint):
    for name in ("bottle", "screw"):
        paint(f"{name}/train/good/0.png")
    with pytest.raises(DataError, match="holds 2 data sets, a run works on one: bottle, screw"):
        read_root(str(tmp_path))


def test_an_ambiguous_folder_says_what_it_could_be(tmp_path, paint):
    paint("train/good/0.png")
    (tmp_path / "manifest.csv").write_text("image_path,label_index\ntrain/good/0.png,0\n")
    with pytest.raises(
        DataError, match=r"mvtec: there is train/good; manifest: .* say which with data.layout\nknown layouts"
    ):
        read_root(str(tmp_path))
    assert read_root(str(tmp_path), layout="manifest").layout == "manifest"


def test_an_empty_folder_says_what_was_seen_and_what_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError) as caught:
        read_root(str(tmp_path))
    text = str(caught.value)
    assert "saw notes.txt" in text
    assert all(name in text for name in READERS)


def test_no_such_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_root(str(tmp_path / "nowhere"))


def test_an_unknown_layout_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(DataError, match=r"no layout .mvtek. .did you mean .mvtec."):
        read_root(str(tmp_path), layout="mvtek")


def test_a_layout_without_normal_images_is_an_error(tmp_path, paint):
    (tmp_path / "train" / "good").mkdir(parents=True)
    paint("test/crack/0.png")
    with pytest.raises(DataError, match="no normal images to train with"):
        read_root(str(tmp_path))


def test_an_unknown_demo_source_is_an_error():
    with pytest.raises(DataError, match="no demo source 'demo:cats'"):
        read_root("demo:cats")


def test_demo_cells_are_split_between_train_and_test():
    pytest.importorskip("elpv_dataset")
    records = read_root("demo:elpv-mono").records
    assert [sum(r.split == s for r in records) for s in ("train", "test")] == [470, 431]


def test_the_recipe_knows_the_same_layouts():
    from typing import get_args

    from anomaly_ft.recipe.schema import Data

    assert set(get_args(Data.model_fields["layout"].annotation)) == {"auto", *READERS}


@pytest.mark.parametrize(
    ("name", "train", "test"), [("mtd", 761, 583), ("mvtec_bottle", 209, 83), ("mvtec_screw", 320, 160)]
)
def test_real_sets_are_read_with_all_their_masks(real_data, name, train, test):
    reading = read_root(str(real_data / name))
    assert reading.layout == "mvtec"
    assert [sum(r.split == s for r in reading.records) for s in ("train", "test")] == [train, test]
    assert all(r.mask for r in reading.records if r.anomalous)


def test_images_come_in_the_order_of_sorted_paths(tmp_path, paint):
    from anomaly_ft.data.layouts.tree import images_below

    for name in ("b/2.png", "b.png", "a/z/1.png", "a/c.png", "a.png", "a-b/1.png", "B/1.png"):
        paint(name)
    found = images_below(tmp_path)
    assert found == sorted(found)
    assert len(found) == 7
    assert images_below(tmp_path / "nowhere") == []


def test_links_to_folders_above_do_not_send_it_round_in_circles(tmp_path, paint):
    paint("good/0.png")
    (tmp_path / "good" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(read_root(str(tmp_path)).records) == 1


def test_an_image_takes_little_memory_until_it_is_decoded(tmp_path):
    import tracemalloc

    for i in range(2000):
        (tmp_path / f"part-{i:06}.png").touch()
    tracemalloc.start()
    reading = read_records(str(tmp_path))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reading.records) == 2000
    assert held < 2000 * 250
    assert peak < 2000 * 600
