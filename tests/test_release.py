"""A release: one version everywhere, and archives that hold what an installation and a citation need."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from anomaly_ft import __version__

ROOT = Path(__file__).parents[1]
RECIPES = {path.name for path in (ROOT / "recipes").glob("*.yaml")}


def test_package_citation_and_changelog_name_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.M)
    released = [heading for heading in headings if heading[0] != "Unreleased"]
    assert citation["version"] == __version__
    assert released[0] == (__version__, str(citation["date-released"]))
    assert all(date for _, date in released)


def test_every_python_named_in_the_classifiers_is_at_least_the_one_required() -> None:
    config = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    named = re.findall(r"Programming Language :: Python :: 3\.(\d+)", config)
    required = re.search(r"python_requires = >=3\.(\d+)", config)
    assert required
    assert min(map(int, named)) == int(required[1])


def test_nothing_tells_to_install_this_package_from_an_index_that_has_it_not() -> None:
    patterns = ("*.md", "recipes/*", "sweeps/*", "notebooks/*", "docs/*.md", "anomaly_ft/**/*.*")
    files = [path for pattern in patterns for path in ROOT.glob(pattern) if path.suffix != ".pyc"]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    told = [name for name, text in texts.items() if re.search(r"pip install [^\n]*anomaly[-_]ft", text)]
    assert len(texts) > 100
    assert told == []


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build sdist and wheel, the wheel out of the sdist as installers do."""
    folder = tmp_path_factory.mktemp("dist")
    building = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", building, str(folder)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs setuptools 69 or later: {error.stderr.splitlines()[-1]}")
    sdist = folder / done.stdout.splitlines()[-1]
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sdist)]
    subprocess.run(pip, cwd=folder, check=True)
    return sdist, next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_has_types_templates_and_every_recipe(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    assert "anomaly_ft/py.typed" in names
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "anomaly_ft").rglob("*.j2")}
    assert templates
    assert templates <= names
    shared = f"anomaly_ft-{__version__}.data/data/share/anomaly_ft/recipes/"
    assert {name.removeprefix(shared) for name in names if name.startswith(shared)} == RECIPES
    assert not [name for name in names if name.startswith(("tests", "recipes", "docs"))]


@pytest.mark.slow
def test_the_source_archive_has_the_citation_and_all_that_tests_and_pages_need(
    archives: tuple[Path, Path],
) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs the git repository")
    kept = {name for name in listed.stdout.splitlines() if not name.startswith((".ci/", ".gitignore"))}
    assert "CITATION.cff" in kept
    assert kept - names == set()
