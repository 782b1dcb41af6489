"""The table of faults: how often each was tried, what came of it, and what was lost.

    python benchmarks/faults.py            # the tests marked `faults` and the others of their files: hours
    python benchmarks/faults.py --quick    # those of the default suite: minutes

Runs the tests that inject the faults and counts their cases; a case that fails has lost something.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import click

ROOT = Path(__file__).parents[1]
FILES = ["tests/test_resume.py", "tests/test_faults.py", "tests/test_sync.py", "tests/test_hostile.py"]
# part of a test's name: the fault, and what has to come of it
FAULTS = {
    "killed_at_random_steps": ("SIGKILL in a random step", "resumed to the same bits and MLflow points"),
    "killed_at_a_random_step": ("SIGKILL in a random step", "resumed to the same bits and MLflow points"),
    "killed_again_and_again": ("SIGKILL three times in one run", "resumed to the same bits and MLflow points"),
    "a_kill_at": ("SIGKILL at a write", "no run folder or a complete one; then the same bits"),
    "a_disk_full": ("disk full at a write", "exit 2, one message; then the same bits"),
    "a_small_real_disk": ("real disk of a few KiB", "exit 2, one message; then the same bits"),
    "a_signal_lets": ("SIGTERM, Ctrl-C", "step finished, KILLED, exit 130; resumed to the same bits"),
    "an_image_lost_midway": ("images vanish or are truncated midway", "exit 2; resumed to the same bits"),
    "a_loss_that_is_no_number": ("NaN loss", "exit 4, best epoch before it kept"),
    "a_second_run_in_the_same": ("two runs in one output folder", "the second refused"),
    "a_read_only_output": ("read-only output folder", "refused, nothing written"),
    "odd_paths": ("Unicode, blanks, quotes, very long paths", "works"),
    "a_server_that_is_down": ("MLflow down from the start", "run complete; sync sends all"),
    "a_server_that_never": ("MLflow never answers", "run complete; sync sends all"),
    "what_a_store_missed": ("MLflow down for a while", "sent when it is back, once"),
    "a_clock_that_jumps": ("clock jumps back", "points in order"),
    "a_recipe_from_a_stranger": ("hostile recipes", "exit 2, one message"),
    "every_value_in_every": ("hostile recipes", "exit 2, one message"),
    "a_hostile_value_alone": ("hostile recipes", "exit 2, one message"),
    "a_manifest_from_a_stranger": ("hostile manifests", "exit 2, one message"),
    "thousands_of_manifests": ("hostile manifests", "exit 2, one message"),
    "an_image_from_a_stranger": ("hostile images", "named, or decoded"),
    "thousands_of_images": ("hostile images", "named, or decoded"),
    "a_run_folder_from_a": ("tampered run folders", "exit 2, one message; or finite scores"),
    "many_tampered_run": ("tampered run folders", "exit 2, one message; or finite scores"),
}


@click.command()
@click.option("--quick", is_flag=True, help="Without the tests marked `faults`.")
def main(quick: bool) -> None:
    """Run the tests and print the table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        marker = "not slow and not faults" if quick else "faults or not slow"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            marker,
            "-o",
            "junit_family=xunit1",
            f"--junitxml={report}",
            *FILES,
        ]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    tries: Counter[tuple[str, str]] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    for case in cases:
        row = next((row for part, row in FAULTS.items() if part in case.get("name", "")), None)
        if row is None or case.find("skipped") is not None:
            continue
        counted = [p.get("value", "1") for p in case.iter("property") if p.get("name") == "tries"]
        tries[row] += int(counted[0]) if counted else 1
        lost[row] += case.find("failure") is not None or case.find("error") is not None
    print("| fault | tries | outcome | lost |\n|---|---|---|---|")
    for row in dict.fromkeys(FAULTS.values()):
        if tries[row]:
            print(f"| {row[0]} | {tries[row]:,} | {row[1]} | {lost[row]} |")
    raise SystemExit(any(lost.values()))


if __name__ == "__main__":
    main()
