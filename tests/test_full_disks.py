"""Full disks under every command that writes: one message, nothing half there, and the next try works."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click.testing
import lives
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from anomaly_ft.cli.main import main
from anomaly_ft.system.files import write_text


def command(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """What a disk that fills does to whatever is being written, in Python or below it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_one_message(said: str) -> None:
    assert "Traceback" not in said
    assert sum(line.startswith("Error: ") for line in said.splitlines()) == 1, said


def test_predictions_on_a_full_disk_end_with_one_message(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").symlink_to("/dev/full")
    result = command("predict", small_run, mvtec_folder / "test" / "hole", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert_one_message(result.stderr)
    assert "No space left on device); complete rows are kept" in result.stderr


def test_a_map_that_does_not_fit_is_not_there_and_has_no_row(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    with no_file_beyond(9000):  # a map has 64 x 64 x 4 bytes
        result = command("predict", small_run, mvtec_folder / "test" / "hole", "--output", tmp_path, "--maps")
    assert result.exit_code == 2
    assert_one_message(result.stderr)
    assert list((tmp_path / "maps").iterdir()) == []
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("size", [100, 10_000])
def test_an_evaluation_that_does_not_fit_leaves_nothing(
    size: int, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    with no_file_beyond(size):
        result = command("evaluate", small_run, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert_one_message(result.stderr)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_that_does_not_fit_leaves_nothing(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    images = mvtec_folder / "test" / "hole"
    with no_file_beyond(10_000):
        result = command(
            "export", small_run, "--format", "timm", "--images", images, "--output", tmp_path / "e"
        )
    assert result.exit_code == 2
    assert_one_message(result.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["init", "data --sheet"])
def test_a_sheet_that_does_not_fit_leaves_nothing(name: str, mvtec_folder: Path, tmp_path: Path) -> None:
    out = {"init": "recipe.yaml", "data --sheet": "sheet.png"}[name]
    word, *option = name.split()
    with no_file_beyond(1000):
        result = command(word, mvtec_folder, *option, tmp_path / out)
    assert result.exit_code == 2
    assert_one_message(result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_text(file, "before")
    with no_file_beyond(1000), pytest.raises(OSError, match="too large"):
        write_text(file, "x" * 2000)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert file.read_text() == "before"


# every write of every command; {name} stands for a path
EXPORTS = ("timm", "onnx", "pt2", "openvino")
COMMANDS: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "{run}", "{images}", "--output", "{out}", "--maps"),
    "evaluate": ("evaluate", "{run}", "--output", "{out}"),
    "data": ("data", "{root}", "--thumbnails", "{out}/sheet.png"),
    "data --sheet": ("data", "{root}", "--sheet", "{out}/sheet.png"),
    "init": ("init", "{root}", "{out}/recipe.yaml"),
    "sync": ("sync", "{out}/small-001", "--store", "{store}"),
    "sweep": ("sweep", "{sweep}", "--output", "{out}"),
    "train": (
        "train", "{recipe}", "--output", "{tmp}/runs",
        "-s", "runtime.cache=disk", "-s", "expert.runtime.cache_dir={out}",
    ),
    **{
        f"export {form}": ("export", "{run}", "--format", form, "--images", "{images}", "--output", "{out}/e")
        for form in EXPORTS
    },
}  # fmt: skip
SWEEP = "name: pair\nrecipe: {recipe}\nseeds: [0, 1]\n"


class Place:
    """Where a command is tried again and again, each time on an empty disk."""

    def __init__(self, folder: Path, run: Path, root: Path, store: str) -> None:
        self.tmp, self.out, self.log, self._run = folder, folder / "out", folder / "log.txt", run
        recipe, sweep = folder / "tiny.yaml", folder / "sweep.yaml"
        text = (run / "recipe.yaml").read_text().replace("max_epochs: 1", "max_epochs: 0")
        recipe.write_text(text)
        sweep.write_text(SWEEP.format(recipe=recipe))
        images = root / "test" / "hole"
        self.paths = {"run": run, "root": root, "images": images, "recipe": recipe, "sweep": sweep}
        self.paths |= {"out": self.out, "tmp": folder, "store": store}

    def empty(self) -> None:
        shutil.rmtree(self.tmp / "runs", ignore_errors=True)
        self.out.mkdir(exist_ok=True)
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.log.unlink(missing_ok=True)

    def copy_run(self) -> None:
        shutil.copytree(self._run, self.out / "small-001", ignore=shutil.ignore_patterns("*.html", "*.png"))

    def left(self) -> set[str]:
        return {path.relative_to(self.out).as_posix() for path in self.out.rglob("*")}

    def run(self, name: str, site: str | None = None) -> int:
        arguments = [part.format(**self.paths) for part in COMMANDS[name]]
        death = {"below": str(self.out)} | ({"full": site} if site else {})
        return lives.run(arguments, self.log, death)


@pytest.fixture
def place(small_run: Path, mvtec_folder: Path, store: str, tmp_path: Path) -> Place:
    return Place(tmp_path, small_run, mvtec_folder, store)


def assert_nothing_half(name: str, place: Place) -> None:
    left = place.left()
    if name == "sync":
        assert (place.out / "small-001" / "summary.json").read_bytes().endswith(b"}\n")
    elif name == "predict":
        maps = {
            ending: {path.stem for path in place.out.glob(f"maps/*{ending}")} for ending in (".npy", ".png")
        }
        assert maps[".npy"] == maps[".png"]
        for path in place.out.glob("*.csv"):
            assert len(pd.read_csv(path)) >= 0
            assert path.read_text().endswith("\n")
        for path in place.out.glob("maps/*.npy"):
            assert np.load(path).shape == (64, 64)
    elif name != "sweep":  # what a sweep leaves is gone on with
        cached = {path for path in left if path.endswith((".npy", ".lock"))}
        for about in place.out.glob("*.json"):  # of decoded images that were all written
            assert json.loads(about.read_text())["sums"]
            assert f"{about.stem}.npy" in cached
            cached.add(about.name)
        assert left <= {"sheet.png"} | cached, left


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_full_at_every_write_of_a_command(
    name: str, place: Place, record_property: Callable[[str, object], None]
) -> None:
    def attempt(site: str | None = None) -> int:
        place.empty()
        if name == "sync":
            place.copy_run()
        return place.run(name, site)

    assert attempt() == 0, place.log.read_text()
    every = lives.sites(place.log)
    assert every
    for site in every:
        code, said = attempt(site), place.log.read_text()
        assert "Traceback" not in said, said
        assert code in ((0, 2, 5) if name == "sweep" else (0, 2)), said
        if code == 2:
            assert_one_message(said)
            assert_nothing_half(name, place)
            place.log.unlink()
            assert place.run(name) == 0, f"the next try after {site}: {place.log.read_text()}"
    record_property("tries", len(every))


@pytest.mark.faults
@pytest.mark.parametrize("kib", [4, 40, 400])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "sweep"])
def test_a_small_real_disk_under_a_command(name: str, kib: int, place: Place) -> None:
    place.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place.out]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount a disk")
    try:
        if name == "sync":
            pytest.skip("a run does not fit at all")
        code = place.run(name)
        said = place.log.read_text()
        assert code in (0, 2), said
        assert "Traceback" not in said, said
        if code == 2:
            assert_one_message(said)
            assert_nothing_half(name, place)
            subprocess.run(["mount", "-o", "remount,size=64m", place.out], check=True)
            place.log.unlink()
            assert place.run(name) == 0, place.log.read_text()
    finally:
        subprocess.run(["umount", place.out], check=True)


@pytest.mark.faults
def test_a_full_disk_behind_stdout_is_one_message(small_run: Path, mvtec_folder: Path) -> None:
    images = mvtec_folder / "test" / "hole"
    arguments = [sys.executable, "-m", "anomaly_ft", "predict", str(small_run), str(images)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=os.environ
        )
    assert done.returncode == 2, done.stderr
    assert_one_message(done.stderr)
    assert "No space left on device" in done.stderr
