"""Nothing in README and docs may be wrong: pages that follow from the code, links, commands, snippets."""

import ast
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import click
import pytest
import yaml
from click.testing import CliRunner

from anomaly_ft.cli.main import main
from anomaly_ft.recipe.read import read_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
COMMANDS = {"anomaly-ft", "make", "pip", "python", "mlflow", "export", "torchrun", "find", "git", "apt", "cd"}
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "anomaly_ft").rglob("*.py")))

every_page = pytest.mark.parametrize("page", TEXTS)


def prose(text: str) -> str:
    """The page without its code."""
    return re.sub(r"`[^`]*`", "", FENCE.sub("", text))


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Page and content of every fenced block in a language."""
    for page, text in TEXTS.items():
        yield from ((page, body) for found, body in FENCE.findall(text) if found == language)


def command_lines() -> list[tuple[str, str]]:
    """Every command shown on a page: in blocks without a language, in shell blocks, and in line."""
    found = []
    for page, text in TEXTS.items():
        if page == "docs/cli.md":
            continue  # made from the commands themselves
        indented = re.findall(r"^    (\S.*)$", FENCE.sub("", text), re.M)
        fenced = [
            line for kind, body in FENCE.findall(text) if kind in ("", "sh") for line in body.splitlines()
        ]
        for line in [*fenced, *indented]:
            words = line.split("#")[0].strip()
            if words and words.split()[0] in COMMANDS:
                found.append((page, words))
    return found


@pytest.mark.parametrize("name", ["recipe.md", "cli.md", "metrics.md", "files.md"])
def test_reference_pages_are_what_the_code_says(name: str) -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generate"]
    assert TEXTS[f"docs/{name}"] == generate(name), "run: python docs/generate.py"


@pytest.mark.parametrize("name", main.commands)
def test_a_command_has_one_help_whoever_asks_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, context = main.commands[name], click.Context(main, info_name="anomaly-ft")
    helps = set()
    for parent in (None, context):
        monkeypatch.setattr(command, "_help_option", None, raising=False)  # as if nobody had asked
        text = command.get_help(command.make_context(name, [], parent, resilient_parsing=True))
        assert re.search(r"-h, --help +Show this message", text)
        helps.add(text.partition("\n")[2])
    assert len(helps) == 1
    assert CliRunner().invoke(main, [name, "-h"]).exit_code == 0


def anchors(page: Path) -> set[str]:
    """What a link can point to on a page, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page])):
        if urlparse(target).scheme:
            assert re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]+(/\S*)?", target), target
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(file), f"{page}: {target}"


EXTERNAL = sorted(
    {link for text in TEXTS.values() for link in re.findall(r"\]\((https://[^)\s]+)\)", FENCE.sub("", text))}
)


@pytest.mark.slow
@pytest.mark.parametrize("address", EXTERNAL)
def test_every_external_link_is_answered(address: str) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": "anomaly_ft link check"})
    try:
        with urllib.request.urlopen(request, timeout=30) as page:
            code = page.status
    except urllib.error.HTTPError as error:
        code = error.code
    except OSError as error:
        pytest.skip(f"{address} cannot be reached from here: {error}")
    assert code in (200, 403, 429), f"{address} answers {code}"  # 403, 429: there, but not for programs


@pytest.mark.parametrize(("page", "line"), command_lines(), ids=lambda value: value[:60])
def test_every_command_exists_with_its_options(page: str, line: str) -> None:
    for part in re.split(r"\s[|&]+\s", line):
        words = shlex.split(re.split(r"\s[<>]\s", part)[0])
        if words[0] == "anomaly-ft":
            parses(words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
        elif words[0] == "python" and words[1].endswith(".py"):
            beside = ROOT / "benchmarks" / "sets.py"  # has the options that benchmarks share
            script = "".join(file.read_text(encoding="utf-8") for file in (ROOT / words[1], beside))
            assert all(f'"{word}"' in script for word in words[2:] if word.startswith("--"))
        elif words[:2] == ["pip", "install"]:
            extras = [
                extra
                for word in words
                for found in re.findall(r"\[(.*?)\]", word)
                for extra in found.split(",")
            ]
            assert all(re.search(rf"^{extra} =$", (ROOT / "setup.cfg").read_text(), re.M) for extra in extras)


def test_commands_named_in_a_sentence_exist_with_their_options() -> None:
    named = {
        words for text in TEXTS.values() for words in re.findall(r"`anomaly-ft ([^`]+)`", FENCE.sub("", text))
    }
    assert len(named) > 10
    for name, *words in (shlex.split(line) for line in named if not line.startswith("-")):
        options = {name for parameter in main.commands[name].params for name in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} - options == set(), name


def parses(words: list[str]) -> None:
    """The command and all its options are known, and a recipe named in it is there."""
    command: click.Command = main
    if not words[0].startswith("-"):
        command = main.commands[words.pop(0)]
    if "--help" in words or not words or words == ["--version"]:
        return
    with command.make_context("documented", list(words), resilient_parsing=False):
        pass
    assert all((ROOT / word).is_file() for word in words if word.startswith("recipes/"))


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    with pytest.raises(KeyError):
        parses(["fly"])
    with pytest.raises(click.NoSuchOption):
        parses(["train", "recipes/quickstart.yaml", "--fast"])
    with pytest.raises(AssertionError):
        parses(["train", "recipes/nothing.yaml"])


@pytest.mark.parametrize(("page", "text"), list(blocks("yaml")), ids=lambda value: value[:20])
def test_every_recipe_shown_is_one(page: str, text: str, tmp_path: Path) -> None:
    assert yaml.safe_load(text)
    (tmp_path / "shown.yaml").write_text(text)
    read_recipe(tmp_path / "shown.yaml", check_root=False)


@pytest.mark.parametrize("page", sorted({page for page, _ in blocks("python")}))
def test_every_python_snippet_runs(
    page: str, small_run: Path, mvtec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(small_run, tmp_path / "runs" / "quickstart-001")
    shutil.copytree(mvtec_folder / "test" / "good", tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for body in (body for found, body in blocks("python") if found == page):
        exec(compile(body, page, "exec"), names)
    assert len(names) > 1


def said() -> set[str]:
    """Every text in the package, its filled-in parts left out, white space made equal."""
    found = set()
    for path in sorted((ROOT / "anomaly_ft").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.add("".join(map(str, parts)))
    return found


def test_every_message_in_troubleshooting_is_one_that_the_program_says() -> None:
    messages = re.findall(r"^\| `(.+?)` \|", TEXTS["docs/troubleshooting.md"], re.M)
    assert len(messages) > 30
    texts = said()
    assert [message for message in messages if not any(message in text for text in texts)] == []


def test_every_file_and_key_of_a_run_is_documented(small_run: Path) -> None:
    import json

    page = TEXTS["docs/files.md"]
    sections = {
        name: page.split(f"## {name}")[1].split("\n## ")[0] for name in ("summary.json", "detector.json")
    }
    for name, section in sections.items():
        documented = set(re.findall(r"`(\w+)`", section))
        keys = set(json.loads((small_run / name).read_text()))
        assert keys - documented == set(), name
    files = {path.name for path in small_run.iterdir()}
    assert (
        files - {file.rstrip("/") for file in re.findall(r"`([\w./]+)`", page.split("## summary.json")[0])}
        == set()
    )


def test_every_environment_variable_named_is_read_somewhere() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+){1,}\b", text)}
    code = SOURCE + "\n".join(p.read_text() for p in [*ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")])
    assert {name for name in named if name not in code and name not in os.environ} == set()


@every_page
def test_a_name_that_is_said_to_be_in_a_file_is_defined_there(page: str) -> None:
    for name, path in re.findall(r"`(\w+)` in\s+\[`[^`]+`\]\(([^)]+\.py)\)", TEXTS[page]):
        source = (ROOT / page).parent / path
        defined = rf"^(?:def |class )?{name}\s*[:=(]"
        assert re.search(defined, source.read_text(encoding="utf-8"), re.M), (page, name, path)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    entries = [each for entry in settings["nav"] for each in entry.values()]
    pages = [page for entry in entries for page in (entry if isinstance(entry, list) else [{"": entry}])]
    assert sorted(page for entry in pages for page in entry.values()) == sorted(TEXTS)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs mkdocs-material")
    pages = tmp_path / "pages"
    for page in (*TEXTS, "LICENSE", "recipes", "notebooks", "anomaly_ft", "docs/images"):
        (pages / page).parent.mkdir(parents=True, exist_ok=True)
        (pages / page).symlink_to(ROOT / page)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("build/pages", "pages")
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "search" / "search_index.json").exists()


def test_pictures_in_the_documentation_are_small() -> None:
    pictures = [*(ROOT / "docs").rglob("*.png")]
    assert pictures
    assert max(path.stat().st_size for path in pictures) < 250_000
