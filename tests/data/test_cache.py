"""Pixels in memory, on disk or decoded as they are asked for: always the same, damaged files rebuilt."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from anomaly_ft.data import images
from anomaly_ft.data.cache import Disk, choose_cache, default_folder, make_room
from anomaly_ft.data.dataset import Options, load_dataset
from anomaly_ft.data.splits import Shares
from anomaly_ft.errors import DataError

FEW = {"image_size": 8, "shares": Shares(val=0.2, calibration=0.2)}


@pytest.fixture
def root(tmp_path, paint) -> Path:
    for i in range(20):
        paint(f"set/good/{i:02}.png")
    for i in range(3):
        paint(f"set/crack/{i}.png")
    return tmp_path / "set"


def load(root: Path, cache: str, **how):
    return load_dataset(str(root), **FEW | how, options=Options(cache=cache, cache_dir=str(root.parent / "c")))


def files(root: Path) -> list[Path]:
    return sorted((root.parent / "c").iterdir())


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that were decoded, in order."""
    seen = []
    original = images.read_image
    monkeypatch.setattr(
        images, "read_image", lambda path, limits=None: seen.append(path) or original(path, limits)
    )
    return seen


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_pixels_are_the_same_wherever_they_are_kept(root, cache):
    expected, found = load(root, "memory"), load(root, cache)
    assert found.cache == cache
    assert np.array_equal(found.test.pixels[:], expected.test.pixels)
    for part in ("train", "val", "calibration"):
        rows, array = found.normals(part).pixels, np.asarray(expected.normals(part).pixels)
        assert rows.shape == array.shape
        assert len(rows) == len(array)
        assert np.array_equal(rows[[1, 0]], array[[1, 0]])
        assert np.array_equal(rows[np.array([2, 2])], array[[2, 2]])
        assert np.array_equal(rows[1:3], array[1:3])
        assert np.array_equal(rows[-1], array[-1])
        assert np.array_equal(np.stack(list(rows)), array)
        assert rows[:2].flags.writeable, "torch warns about arrays that are not"
        with pytest.raises(IndexError):
            rows[len(rows)]


def test_an_epoch_after_the_first_decodes_nothing(root, decoded):
    data = load(root, "disk")
    first = len(decoded)
    for _ in range(3):
        data.normals("train").pixels[:]
    assert (first, len(decoded)) == (23, 23)


def test_a_second_run_decodes_nothing(root, decoded):
    expected = load(root, "disk").undivided.pixels[:]
    decoded.clear()
    assert np.array_equal(load(root, "disk").undivided.pixels[:], expected)
    assert decoded == []


def test_without_a_cache_every_epoch_decodes(root, decoded):
    data = load(root, "none")
    decoded.clear()
    data.normals("val").pixels[:]
    assert len(decoded) == len(data.split.val) == 3


def test_another_setting_is_another_cache(root):
    load(root, "disk")
    before = files(root)
    load(root, "disk", image_size=16)
    assert len(files(root)) == 2 * len(before)


def test_a_changed_image_makes_the_cache_stale(root, paint):
    before = load(root, "disk").undivided.pixels[:]
    record = load(root, "disk").undivided.records[0]
    stamp = record.path.stat()
    paint(f"set/{record.name}", value=7)
    os.utime(record.path, (stamp.st_atime, stamp.st_mtime))  # content counts, not the time
    after = load(root, "disk").undivided.pixels[:]
    assert (after[0] == 7).all()
    assert np.array_equal(after[1:], before[1:])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_cache_is_noticed_and_rebuilt(root, damage):
    expected = load(root, "disk").undivided.pixels[:]
    for path in files(root):
        data = bytearray(path.read_bytes())
        if damage == "flip" and path.suffix == ".npy":
            data[-5] ^= 255
        path.write_bytes(
            {"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b"", "text": b"{}"}[damage]
        )
    with pytest.warns(UserWarning, match="the cache is damaged and is built again"):
        found = load(root, "disk")
    assert np.array_equal(found.undivided.pixels[:], expected)
    assert np.array_equal(load(root, "disk").undivided.pixels[:], expected)


def test_an_interrupted_build_leaves_nothing_behind(root, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomaly_ft.data.cache.zlib.crc32", stop)
    with pytest.raises(KeyboardInterrupt):
        load(root, "disk")
    assert files(root) == []


def test_a_file_that_breaks_between_epochs_is_named(root):
    data = load(root, "none")
    data.undivided.records[0].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"could be read at first, cannot be read any more: .*empty"):
        data.undivided.pixels[0]


def test_memory_is_used_up_to_the_budget_then_the_disk(tmp_path):
    assert choose_cache("auto", 2**30, 1.0, Disk(tmp_path)) == "memory"
    assert choose_cache("auto", 2**30 + 1, 1.0, Disk(tmp_path)) == "disk"


def test_without_room_on_the_disk_nothing_is_kept(tmp_path):
    assert choose_cache("auto", 2**60, 1.0, Disk(tmp_path, gib=2**40)) == "none"
    with pytest.raises(DataError, match=r"cannot take 1073741824.0 GiB"):
        choose_cache("disk", 2**60, 1.0, Disk(tmp_path, gib=2**40))


def test_a_cache_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="not writable"):
        choose_cache("disk", 1, 1.0, Disk(tmp_path / "file" / "below"))


def test_caches_go_where_the_system_wants_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "anomaly_ft"


def test_caches_used_longest_ago_make_room(tmp_path):
    for i, name in enumerate(["second", "first", "third"]):
        np.save(tmp_path / f"{name}.npy", np.zeros(2**20 - 128, np.uint8))  # a MiB with its header
        (tmp_path / f"{name}.json").write_text("{}")
        os.utime(tmp_path / f"{name}.npy", (0, [200, 100, 300][i]))
    make_room(Disk(tmp_path, gib=3.5 / 1024), 2**19)
    assert len(list(tmp_path.iterdir())) == 6, "there is room"
    make_room(Disk(tmp_path, gib=2.5 / 1024), 2**20)
    assert {path.name for path in tmp_path.iterdir()} == {"third.npy", "third.json"}
    mapped = np.load(tmp_path / "third.npy", mmap_mode="r")
    make_room(Disk(tmp_path, gib=1 / 1024), 2**20)
    assert list(tmp_path.iterdir()) == []
    assert mapped.sum() == 0, "what is mapped stays readable"


def test_reading_a_cache_again_is_using_it(root):
    load(root, "disk")
    for path in files(root):
        os.utime(path, (0, 0))
    load(root, "disk")
    assert all(path.stat().st_mtime > 0 for path in files(root) if path.suffix == ".npy")


def test_what_a_dead_run_left_half_written_goes(tmp_path):
    old, new = tmp_path / ".a.1.partial", tmp_path / ".b.2.partial"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    make_room(Disk(tmp_path), 1)
    assert not old.exists()
    assert new.exists()


def test_a_new_cache_stays_within_the_space_for_all(root):
    load(root, "disk")
    first = sum(path.stat().st_size for path in files(root) if path.suffix == ".npy")
    options = Options(cache="disk", cache_dir=str(root.parent / "c"), cache_disk_gib=5 * first / 2**30)
    load_dataset(str(root), **FEW | {"image_size": 16}, options=options)  # four times as large
    assert sum(path.stat().st_size for path in files(root)) < 5.5 * first
    load_dataset(str(root), **FEW | {"image_size": 17}, options=options)
    assert sum(path.stat().st_size for path in files(root)) < 5.5 * first


def test_images_beyond_the_space_for_caches_are_not_put_there(tmp_path):
    assert choose_cache("auto", 2 * 2**30, 1.0, Disk(tmp_path, gib=1.5)) == "none"
    with pytest.raises(
        DataError,
        match=r"2\.0 GiB of images are more than all caches .* expert\.runtime\.cache_disk_gib \(1\.5\)",
    ):
        choose_cache("disk", 2 * 2**30, 1.0, Disk(tmp_path, gib=1.5))


def test_a_disk_that_fills_while_the_cache_is_written_is_said_and_leaves_nothing(root):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # no file may grow beyond
    try:
        with pytest.raises(DataError, match=r"runtime\.cache: .* cannot be written to .*cache to none"):
            load(root, "disk", image_size=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(root) == []
    assert len(load(root, "disk", image_size=64).undivided) == 16
