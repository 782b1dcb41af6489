"""The table of faults: how often each was tried, what came of it, and what was lost.

    python benchmarks/faults.py                       # with the tests marked `faults`: about half an hour
    python benchmarks/faults.py --keep faults.jsonl   # the same; stopped and given again, it goes on
    python benchmarks/faults.py --quick               # those of the default suite: minutes
    python benchmarks/faults.py --only slow_server    # those whose name has this part

Runs the tests that inject the faults and counts their cases; a case that fails has lost something.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
FILES = (
    "test_server_faults", "run/test_resume", "run/test_sync", "test_full_disks", "test_faults",
    "run/test_sweep", "test_processes", "data/test_cache", "test_hostile", "run/test_update",
)  # fmt: skip
# part of a test's name: the fault, and what has to come of it
FAULTS = {
    "killed_at_random_steps": ("SIGKILL in a random step", "resumed to the same bits and MLflow points"),
    "killed_at_a_random_step": ("SIGKILL in a random step", "resumed to the same bits and MLflow points"),
    "killed_again_and_again": ("SIGKILL three times in one run", "resumed to the same bits and MLflow points"),
    "a_kill_at": ("SIGKILL at a write", "no run folder or a complete one; then the same bits"),
    "a_disk_full_at_any_write": ("disk full at a write", "exit 2, one message; then the same bits"),
    "a_disk_full_at_every_write_loses": ("disk full at a write", "exit 2, one message; then the same bits"),
    "a_small_real_disk_that": ("real disk of a few KiB", "exit 2, one message; then the same bits"),
    "a_signal_lets": ("SIGTERM, Ctrl-C", "step finished, KILLED, exit 130; resumed to the same bits"),
    "an_image_lost_midway": ("images vanish or are truncated midway", "exit 2; resumed to the same bits"),
    "a_loss_that_is_no_number": ("NaN loss", "exit 4, best epoch before it kept"),
    "a_second_run_in_the_same": ("two runs or sweeps in one output folder", "the second refused"),
    "a_sweep_in_a_folder_in_use": ("two runs or sweeps in one output folder", "the second refused"),
    "a_process_that_dies": ("a process of torchrun killed", "FAILED in MLflow, no run folder"),
    "a_worker_that_dies": ("a Ray worker killed", "that run failed, the others finished"),
    "full_at_every_write_of_a": ("disk full at a write, other commands", "exit 2, nothing half; then it works"),
    "update_that_ends_at_any": ("SIGKILL or full disk, `update`", "the old run untouched, no new one half"),
    "small_real_disk_under": ("real disk of a few KiB, other commands", "exit 2, nothing half; then it works"),
    "behind_stdout": ("disk full, other commands, by chance", "exit 2, one message, nothing half"),
    "not_fit": ("disk full, other commands, by chance", "exit 2, one message, nothing half"),
    "predictions_on_a_full": ("disk full, other commands, by chance", "exit 2, one message, nothing half"),
    "while_the_cache_is": ("disk full, other commands, by chance", "exit 2, one message, nothing half"),
    "a_read_only_output": ("read-only output folder", "refused, nothing written"),
    "odd_paths": ("Unicode, blanks, quotes, very long paths", "works"),
    "a_server_that_is_down": ("MLflow down from the start", "run complete; sync sends all"),
    "a_server_that_never": ("MLflow never answers", "run complete; sync sends all"),
    "what_a_store_missed": ("MLflow down for a while", "sent when it is back, once"),
    "a_server_killed": ("MLflow server killed midway", "run complete; sync sends the rest, once"),
    "stops_answering": ("MLflow server frozen, midway or before", "run complete; sync sends the rest, once"),
    "a_slow_server": ("slow MLflow server", "everything arrives, once"),
    "a_clock_that_jumps": ("clock jumps back", "points in order"),
    "any_tree": ("hostile recipes", "exit 2, one message; or what they say"),
    "thousands_of_trees": ("hostile recipes", "exit 2, one message; or what they say"),
    "a_recipe_from_a_stranger": ("hostile recipes", "exit 2, one message; or what they say"),
    "every_value_in_every": ("hostile recipes", "exit 2, one message; or what they say"),
    "a_hostile_value_alone": ("hostile recipes", "exit 2, one message; or what they say"),
    "a_manifest_from_a_stranger": ("hostile manifests", "exit 2, one message"),
    "thousands_of_manifests": ("hostile manifests", "exit 2, one message"),
    "an_image_from_a_stranger": ("hostile images", "named, or decoded"),
    "thousands_of_images": ("hostile images", "named, or decoded"),
    "a_run_folder_from_a": ("tampered run folders", "exit 2, one message; or finite scores"),
    "many_tampered_run": ("tampered run folders", "exit 2, one message; or finite scores"),
    "records_from_a": ("tampered records of runs", "exit 2, one message; or what they say"),
    "thousands_of_records": ("tampered records of runs", "exit 2, one message; or what they say"),
    "exported_folder": ("hostile export folders", "exit 2, one message; or an encoder"),
    "goes_into_a_new_folder": ("hostile --output", "exit 2, nothing overwritten"),
    "cannot_be_a_folder": ("hostile --output", "exit 2, nothing overwritten"),
}


class Keeper:
    """Writes what became of each test as a line of JSON, and leaves out those that have one."""

    def __init__(self, path: Path, only: str) -> None:
        self._path, self._only = path, only

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = {line["test"] for line in self.lines()}
        items[:] = [item for item in items if self._wanted(item.nodeid) and item.nodeid not in known]

    def _wanted(self, test: str) -> bool:
        return bool(row_of(test)) and self._only in test

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            tries = dict(report.user_properties).get("tries", 1)
            line = {"test": report.nodeid, "outcome": report.outcome, "tries": tries}
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def files_of(only: str) -> list[str]:
    """The files with tests of faults whose name has the part `only`."""
    paths = [f"tests/{name}.py" for name in FILES]
    return [path for path in paths if only in (ROOT / path).read_text(encoding="utf-8")]


def row_of(test: str) -> tuple[str, str] | None:
    return next((row for part, row in FAULTS.items() if part in test), None)


@click.command()
@click.option("--quick", is_flag=True, help="Without the tests marked `faults`.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="A file of outcomes; tests in it are not run again."
)
@click.option("--only", default="", help="A part of the names of the tests to run.")
def main(quick: bool, keep: Path | None, only: str) -> None:
    """Run the tests and print the table in Markdown."""
    files = files_of(only)
    if not files:
        sys.exit(f"no test was run: none has {only!r} in its name")
    marker = "not slow and not faults" if quick else "faults or not slow"
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper((keep or Path(folder, "outcomes.jsonl")).resolve(), only)
        os.chdir(ROOT)
        code = pytest.main(["-q", "-p", "no:randomly", "-m", marker, *files], [keeper])
        lines = keeper.lines()
    tries: Counter[tuple[str, str]] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    for line in lines:
        row = row_of(str(line["test"]))
        if row and line["outcome"] != "skipped":
            tries[row] += int(str(line["tries"]))
            lost[row] += line["outcome"] == "failed"
    print("| fault | tries | outcome | lost |\n|---|---|---|---|")
    for row in dict.fromkeys(FAULTS.values()):
        if tries[row]:
            print(f"| {row[0]} | {tries[row]:,} | {row[1]} | {lost[row]} |")
    if not tries:
        sys.exit(f"no test was run: pytest ended with {code!r}")
    sys.exit(any(lost.values()))


if __name__ == "__main__":
    main()
