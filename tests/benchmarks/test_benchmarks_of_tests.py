"""The benchmarks that run tests, or look at pages, run themselves."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_faults_counts_the_tests_it_runs() -> None:
    done = call("faults", "--quick", "--only", "while_the_cache_is")
    assert done.returncode == 0, done.stdout + done.stderr
    row = r"^\| disk full, other commands, by chance \| ([\d,]+) \| exit 2, one message, nothing half \| 0 \|$"
    tries = re.search(row, done.stdout, re.MULTILINE)
    assert tries, done.stdout
    assert int(tries[1].replace(",", "")) > 0


def test_faults_that_runs_no_test_fails() -> None:
    done = call("faults", "--quick", "--only", "no such test at all")
    assert done.returncode == 1
    assert "no test was run" in done.stderr


def test_every_fault_is_the_name_of_a_test() -> None:
    parts = runpy.run_path(str(ROOT / "benchmarks" / "faults.py"))
    source = "".join((ROOT / f"tests/{name}.py").read_text() for name in parts["FILES"])
    missing = [part for part in parts["FAULTS"] if not re.search(rf"def test_\w*{part}", source)]
    assert missing == []
