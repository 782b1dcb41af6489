"""Write the reference pages that follow from the code: `python docs/generate.py` (a test compares them)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click

from anomaly_ft.cli.main import main
from anomaly_ft.cli.options import EXIT_CODES
from anomaly_ft.evaluation.metric_names import METRICS, TEST_METRICS, Metric
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.section import EXPERT, places, sections
from anomaly_ft.run.run_summary import EvaluationSummary, RunSummary
from anomaly_ft.run.summary_parts import Part

HERE = Path(__file__).parent
MADE = "<!-- Made by `python docs/generate.py`; do not edit. -->"
BEGIN = "<!-- From here on made by `python docs/generate.py`; do not edit. -->"
END = "<!-- To here. -->"


def parts_of(annotation: Any) -> tuple[type[Part], bool] | None:
    """The part that a field holds, and whether it holds many; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation, False
    found = [parts_of(inner) for inner in get_args(annotation)]
    inside = next((part for part in found if part), None)
    return (inside[0], getattr(annotation, "__origin__", None) is tuple) if inside else None


def recipe_page() -> Iterator[str]:
    yield "# Recipe reference"
    yield ""
    yield MADE
    yield ""
    yield "A recipe is a YAML file. Only `data.root` is required. Any setting can be overridden on the command line by its"
    yield "dotted key: `-s optimizer.lr=3e-5`. Unknown keys and values out of range are reported all at once."
    yield ""
    yield "The settings that a run is begun with come first. All others stand under `expert`, in sections of the same names,"
    yield "and have defaults that seldom need a change. Values are taken as they stand: no variables are filled in."
    yield ""
    yield from _table("")
    for expert in ("", f"{EXPERT}."):
        for section in sections(Recipe):
            if rows := list(_table(f"{expert}{section}")):
                yield f"\n## {expert}{section}\n"
                yield from rows


def _table(path: str) -> Iterator[str]:
    """The settings that stand at a dotted path, empty for the top."""
    shown = {key: place for key, place in places(Recipe).items() if key.rpartition(".")[0] == path}
    if shown:
        yield "| key | default | may be | what it does |"
        yield "|---|---|---|---|"
    for key, (section, name) in shown.items():
        model = sections(Recipe)[section] if section else Recipe
        field = model.model_fields[name]
        default = (
            "required"
            if field.is_required()
            else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        )
        words = " ".join((field.description or "").split())
        allowed = _allowed(model.model_json_schema()["properties"][name])
        yield f"| `{key}` | {default} | {allowed} | {words} |".replace(" |  |", " | |")


def _allowed(schema: dict[str, object]) -> str:
    """The type and limits of a setting, in words."""
    kinds = schema.get("anyOf", [schema])
    assert isinstance(kinds, list)
    return " or ".join(_one(kind) for kind in kinds)


def _one(schema: dict[str, object]) -> str:
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if isinstance(choices, list):
        return ", ".join(f"`{choice}`" for choice in choices)
    words = {
        "string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`",
        "null": "`null`", "array": "list", "object": "mapping",
    }  # fmt: skip
    limits = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "pattern": "matching",
    }
    said = [
        f"{sign} `{schema[key]}`" if key == "pattern" else f"{sign} {schema[key]:g}"
        for key, sign in limits.items()
        if key in schema
    ]
    inside = schema.get("items")
    of = f" of {_allowed(inside)}" if isinstance(inside, dict) and inside else ""
    return " ".join([words[str(schema["type"])] + of, ", ".join(said)]).strip().replace("|", "\\|")


def cli_page() -> Iterator[str]:
    yield "# Command line reference"
    yield ""
    yield MADE
    yield ""
    yield "Results go to stdout, progress and messages to stderr."
    yield ""
    yield "| exit code | meaning |"
    yield "|---|---|"
    for code, meaning in EXIT_CODES.items():
        yield f"| {code} | {meaning} |"
    yield ""
    yield from _help(main, "anomaly-ft")
    for name, command in main.commands.items():
        yield f"\n## {name}\n"
        yield from _help(command, f"anomaly-ft {name}")


def _help(command: click.Command, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name, terminal_width=100, **command.context_settings)
    yield "```text"
    yield command.get_help(context)
    yield "```"


def metrics_page() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield MADE
    yield ""
    yield "The same names stand in MLflow, in `history.jsonl` and in `anomaly-ft compare --format csv`. In MLflow, charts group"
    yield "by the part before the slash; the step is the epoch and 0 the pretrained encoder. `train/` and `val/` are curves."
    yield "All others are logged once, after the kept epoch's weights were restored: their last value is what the run left."
    yield ""
    yield from _meanings(METRICS)
    yield ""
    yield "`<metric>` after `test/`, `frozen/` and `gain/` is one of"
    yield ""
    yield from _meanings(TEST_METRICS)


def _meanings(entries: dict[str, Metric]) -> Iterator[str]:
    yield "| metric | called | meaning |"
    yield "|---|---|---|"
    for name, entry in entries.items():
        yield f"| `{name}` | {entry.label} | {entry.meaning} |"


def files_page() -> Iterator[str]:
    """The page as it is, with the part on summary.json as the code says."""
    before, _, rest = (HERE / "files.md").read_text(encoding="utf-8").partition(BEGIN + "\n")
    _, _, after = rest.partition(END + "\n")
    yield before + BEGIN
    yield ""
    yield "| key | what |"
    yield "|---|---|"
    yield from _keys(RunSummary, "")
    other = {
        name: field
        for name, field in EvaluationSummary.model_fields.items()
        if name not in RunSummary.model_fields
    }
    lacking = [f"`{name}`" for name in RunSummary.model_fields if name not in EvaluationSummary.model_fields]
    yield ""
    yield f"The summary of an evaluation lacks {', '.join(lacking)}, and the normal images under `data`. It has besides"
    yield ""
    yield "| key | what |"
    yield "|---|---|"
    yield from _rows(other, "", EvaluationSummary)
    yield ""
    yield END
    yield after.removesuffix("\n")


def _keys(part: type[Part], prefix: str) -> Iterator[str]:
    """A row for each key; below a part those that it holds."""
    yield from _rows(part.model_fields, prefix, part)


def _rows(fields: dict[str, Any], prefix: str, part: type[Part]) -> Iterator[str]:
    for name, field in fields.items():
        if not field.description:
            raise ValueError(f"{part.__name__}.{name} has no docstring")
        yield f"| `{prefix}{name}` | {' '.join(field.description.split())} |"
        if inside := parts_of(field.annotation):
            held, many = inside
            yield from _keys(held, f"{prefix}{name}{'[]' if many else ''}.")


PAGES = {"recipe.md": recipe_page, "cli.md": cli_page, "metrics.md": metrics_page, "files.md": files_page}


def generate(name: str) -> str:
    """The text of a page."""
    return "\n".join(PAGES[name]()) + "\n"


if __name__ == "__main__":
    for name in PAGES:
        (HERE / name).write_text(generate(name), encoding="utf-8")
