"""Write the reference pages that follow from the code: `python docs/generate.py` (a test compares them)."""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from anomaly_ft.cli.main import main
from anomaly_ft.cli.options import EXIT_CODES
from anomaly_ft.evaluation.metric_names import METRICS, TEST_METRICS
from anomaly_ft.recipe.schema import Recipe, Section

HERE = Path(__file__).parent
MADE = "<!-- Made by `python docs/generate.py`; do not edit. -->"


def recipe_page() -> Iterator[str]:
    yield "# Recipe reference"
    yield ""
    yield MADE
    yield ""
    yield "A recipe is a YAML file. Only `data.root` is required. Any setting can be overridden on the command line by its"
    yield "dotted key: `-s optimizer.lr=3e-5`. Unknown keys and values out of range are reported all at once."
    yield ""
    yield from _fields(Recipe, "")
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield f"\n## {name}\n"
            yield from _fields(field.annotation, f"{name}.")


def _fields(section: type[Section], prefix: str) -> Iterator[str]:
    properties = section.model_json_schema()["properties"]
    yield "| key | default | may be | what it does |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            continue
        default = (
            "required"
            if field.is_required()
            else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        )
        words = " ".join((field.description or "").split())
        yield f"| `{prefix}{name}` | {default} | {_allowed(properties[name])} | {words} |".replace(
            " |  |", " | |"
        )


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
    yield "All others are logged once, after the best epoch's weights were restored: their last value is what the run left."
    yield ""
    yield from _meanings(METRICS)
    yield ""
    yield "`<metric>` after `test/`, `frozen/` and `gain/` is one of"
    yield ""
    yield from _meanings(TEST_METRICS)


def _meanings(names: dict[str, str]) -> Iterator[str]:
    yield "| metric | meaning |"
    yield "|---|---|"
    for name, meaning in names.items():
        yield f"| `{name}` | {meaning} |"


PAGES = {"recipe.md": recipe_page, "cli.md": cli_page, "metrics.md": metrics_page}


def generate(name: str) -> str:
    """The text of a page."""
    return "\n".join(PAGES[name]()) + "\n"


if __name__ == "__main__":
    for name in PAGES:
        (HERE / name).write_text(generate(name), encoding="utf-8")
