"""Full disks, kills while writing, files that go, numbers that break, odd paths: nothing is ever half there."""

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import lives
import pytest
from mlflow.tracking import MlflowClient
from test_resume import SAME, Place, place, places, whole  # noqa: F401


def assert_absent_or_complete(place: Place, whole: Place) -> None:  # noqa: F811
    if place.finished.exists():
        files = {path.relative_to(place.finished) for path in place.finished.rglob("*") if path.is_file()}
        expected = {path.relative_to(whole.finished) for path in whole.finished.rglob("*") if path.is_file()}
        assert {path for path in files if path.parts[0] != "checkpoint"} == expected
        for name in SAME:
            assert (place.finished / name).read_bytes() == (whole.finished / name).read_bytes(), name


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def go_on(place: Place, whole: Place) -> None:  # noqa: F811
    """With what is there, or from the beginning where nothing is, to the same end, also in MLflow."""
    assert_absent_or_complete(place, whole)
    if not place.finished.exists():
        resumable = (place.partial / "recipe.yaml").is_file()
        shutil.rmtree(place.partial) if not resumable and place.partial.exists() else None
        assert place.train(*(["--resume"] if resumable else [])) == 0, place.said()
    assert lives.run(["sync", str(place.finished), "--store", place.store], place.log) == 0, place.said()
    assert not list(place.output.glob("*.partial"))
    assert names_below(place.finished) == names_below(whole.finished)
    for name in SAME:
        assert (place.finished / name).read_bytes() == (whole.finished / name).read_bytes(), name
    run = MlflowClient(place.store).get_run(
        json.loads((place.finished / "summary.json").read_text())["mlflow_run_id"]
    )
    assert run.info.status == "FINISHED"
    assert place.points(run) == whole.points()


def kill_at(site: str, place: Place, whole: Place) -> None:  # noqa: F811
    code = place.train(death={"write": site, "below": str(place.output)})
    assert code == lives.KILLED, place.said()
    go_on(place, whole)


def test_a_kill_while_the_best_encoder_is_written_leaves_nothing_aside(
    place: Place, whole: Place  # noqa: F811
) -> None:  # fmt: skip
    """In its last epoch: no later one writes the encoder again and tidies up."""
    written = [site for site in lives.changes(whole.log) if "/.encoder.new" in site]
    last = (written[-1], written.count(written[-1]))
    assert place.train(death={"write": last, "below": str(place.output)}) == lives.KILLED, place.said()
    assert any(".encoder.new" in name for name in names_below(place.partial))
    go_on(place, whole)


def fill_at(site: str, place: Place, whole: Place) -> None:  # noqa: F811
    code = place.train(death={"full": site, "below": str(place.output)})
    assert code in (0, 2), place.said()
    assert "Traceback" not in place.said()
    if code == 2:
        assert re.search(r"No space left on device.*|cannot be written", place.said())
    go_on(place, whole)


def every(part: int, whole: Place) -> list[str]:  # noqa: F811
    """Every tenth site, from one on."""
    return lives.sites(whole.log)[part::10]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (
            "/mlartifacts/1/artifacts/.artifact.uploading.qajdzym_",
            "/mlartifacts/2/artifacts/.artifact.uploading.x0_1abcd",
        ),
        ("/runs/tmpqajdzym_/a", "/runs/tmp1b_cdxyz/a"),
        ("/mlartifacts/models/m-" + "0a" * 16, "/mlartifacts/models/m-" + "f1" * 16),
    ],
)
def test_a_place_where_something_is_written_is_named_alike_in_every_life(name: str, other: str) -> None:
    assert lives.site_of("open", name) == lives.site_of("open", other)
    assert lives.site_of("open", name) != lives.site_of("open", other + "/more")


def test_a_kill_at_any_write_leaves_no_half_run(
    place: Place, whole: Place, chance: random.Random  # noqa: F811
) -> None:  # fmt: skip
    kill_at(chance.choice(lives.sites(whole.log)), place, whole)


@pytest.mark.faults
@pytest.mark.parametrize("part", range(10))
def test_a_kill_at_every_write_leaves_no_half_run(
    part: int, places: Callable[[], Place], whole: Place, record_property: Callable[[str, object], None]  # noqa: F811
) -> None:  # fmt: skip
    for site in every(part, whole):
        kill_at(site, places(), whole)
    record_property("tries", len(every(part, whole)))


def test_a_disk_full_at_any_write_loses_nothing(
    place: Place, whole: Place, chance: random.Random  # noqa: F811
) -> None:  # fmt: skip
    fill_at(chance.choice(lives.sites(whole.log)), place, whole)


@pytest.mark.faults
@pytest.mark.parametrize("part", range(10))
def test_a_disk_full_at_every_write_loses_nothing(
    part: int, places: Callable[[], Place], whole: Place, record_property: Callable[[str, object], None]  # noqa: F811
) -> None:  # fmt: skip
    for site in every(part, whole):
        fill_at(site, places(), whole)
    record_property("tries", len(every(part, whole)))


@pytest.mark.faults
@pytest.mark.parametrize("kib", [10, 200, 500, 900, 1500, 2200])
def test_a_small_real_disk_that_fills_loses_nothing(
    kib: int, place: Place, whole: Place, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a disk")
    try:
        place.output = disk / "runs"
        assert place.train() == 2, place.said()
        assert "Traceback" not in place.said()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        go_on(place, whole)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["gone", "truncated"])
def test_an_image_lost_midway_ends_the_run_and_it_goes_on_when_it_is_back(
    how: str, place: Place, whole: Place, mvtec_folder: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    root = Path(shutil.copytree(mvtec_folder, tmp_path / "data"))
    place.recipe.write_text(place.recipe.read_text().replace(str(mvtec_folder), str(root)))
    options = ["train", str(place.recipe), "--output", str(place.output), "-s", "runtime.cache=none"]
    process = lives.start(options, place.log)
    while not list(place.partial.glob("checkpoint/0*.json")) and process.is_alive():
        time.sleep(0.01)
    images = sorted((root / "train" / "good").glob("*.png"))
    before = [image.read_bytes() for image in images]
    for image in images:
        image.unlink() if how == "gone" else image.write_bytes(image.read_bytes()[:100])
    process.join(120)
    assert process.exitcode == 2, place.said()
    assert "could be read at first, cannot be read any more" in place.said()
    assert place.logged()[0].info.status == "FAILED"
    for image, content in zip(images, before, strict=True):
        image.write_bytes(content)
    assert place.train("--resume") == 0, place.said()
    for name in ("history.jsonl", "encoder/model.safetensors"):
        assert (place.finished / name).read_bytes() == (whole.finished / name).read_bytes()


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_best_epoch_before(place: Place) -> None:  # noqa: F811
    assert place.train(death={"nan": 6}) == 4, place.said()
    summary = json.loads((place.finished / "summary.json").read_text())
    lines = [json.loads(line) for line in (place.finished / "history.jsonl").read_text().splitlines()]
    assert (summary["stop_reason"], summary["epochs"]) == ("diverged", 2)
    assert lines[-1]["train/loss"] is None


@pytest.mark.faults
@pytest.mark.parametrize("name", ["数据 📷 ä", "/".join(["deep" * 20] * 8), "a'b\"c $HOME"])
def test_odd_paths_are_paths(
    name: str,
    mvtec_folder: Path,
    store: str,
    tmp_path: Path,
    whole: Place,  # noqa: F811
) -> None:
    root = Path(shutil.copytree(mvtec_folder, tmp_path / name / "data"))
    odd = Place(tmp_path / "place", root, store)
    odd.output = tmp_path / name / "runs"
    assert odd.train() == 0, odd.said()
    for file in SAME:
        assert (odd.finished / file).read_bytes() == (whole.finished / file).read_bytes()


def test_a_read_only_output_folder_is_refused(place: Place) -> None:  # noqa: F811
    place.output = Path("/proc/self/runs")
    assert place.train() == 2
    assert "--output /proc/self/runs: cannot be written to" in place.said()
