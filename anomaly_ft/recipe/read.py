"""A YAML file and command-line overrides to a validated `Recipe`, or all mistakes in it at once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel

from anomaly_ft.errors import RecipeError, did_you_mean
from anomaly_ft.recipe.schema import EXPONENT, Recipe, Section

LARGEST = 256 * 1024  # bytes
MISTAKE, SHOWN = 400, 50  # characters of a mistake, and mistakes, in one message

S = TypeVar("S", bound=Section)


def read_recipe(path: Path, overrides: Sequence[str] = (), *, check_root: bool = True) -> Recipe:
    """Read a recipe file and apply overrides such as `optimizer.lr=1e-4`.

    Args:
        path: the YAML file.
        overrides: `KEY=VALUE` with a dotted key; the value is read as YAML.
        check_root: whether a `data.root` that does not exist on this machine is a mistake.

    Raises:
        RecipeError: everything that is wrong with it, at once.
    """
    tree = read_yaml(path)
    for override in overrides:
        _override(tree, override, str(path))
    return validate(Recipe, tree, str(path), check_root=check_root)


def validate(model: type[S], tree: Mapping[str, Any], source: str, *, check_root: bool = True) -> S:
    """A tree of settings as a validated section.

    Raises:
        RecipeError: everything that is wrong with it, at once.
    """
    try:
        return model.model_validate(_tuples(tree), context={"check_root": check_root})
    except pydantic.ValidationError as cause:
        mistakes = [_short(mistake, MISTAKE) for mistake in _word(cause, model)]
        more = [f"and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        raise RecipeError(source, [*mistakes[:SHOWN], *more]) from None
    except UnicodeEncodeError as cause:
        found = cause.object[cause.start : cause.end]
        raise RecipeError(source, [f"holds {found!r}, which is no character"]) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file, not validated.

    Raises:
        RecipeError: no file, no text, no YAML, or no sections.
    """
    tree = _parse(_read(path), str(path))
    if not isinstance(tree, dict):
        kind = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise RecipeError(str(path), [f"expected sections with settings, such as 'data:', got {kind}"])
    return tree


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, and so is *alias: a few of them can stand for more
    than fits into memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"*{event.anchor}: aliases are not read, write the value itself", event.start_mark
            )
        return super().compose_node(parent, index)


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    seen = set()
    for key in keys:
        wrong = "is not a text" if not isinstance(key, str) else "stands twice" if key in seen else ""
        if wrong:
            said = f"key {_short(repr(key))} {wrong}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_implicit_resolver(*EXPONENT)
_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _UniqueKeyLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        said = _short(str(cause.problem or cause.context), MISTAKE)
        raise RecipeError(source, [f"{where}not valid YAML: {said}"]) from None
    except RecursionError:
        raise RecipeError(source, ["not valid YAML: nested too deeply"]) from None
    except Exception as cause:  # values that say what they are and are not: !!int "", !!timestamp x
        said = _short(str(cause), MISTAKE)
        raise RecipeError(source, [f"not valid YAML: {type(cause).__name__}: {said}"]) from None


def _override(tree: dict[str, Any], override: str, source: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(source, [f"override {override!r}: expected KEY=VALUE, such as optimizer.lr=1e-4"])
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise RecipeError(source, [f"override {override!r}: {section} is not a section"])
    tree[last] = _parse(text, f"override {override!r}")


def _tuples(value: Any) -> Any:
    """YAML knows lists only, the frozen recipe holds tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise RecipeError(str(path), [f"larger than {LARGEST // 1024} KiB, which no recipe is"])
        return content.decode()
    except FileNotFoundError:
        raise RecipeError(str(path), ["file does not exist"]) from None
    except (OSError, ValueError) as cause:
        raise RecipeError(str(path), [f"cannot be read as text: {cause}"]) from cause


def _word(error: pydantic.ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One line for each mistaken key: `section.key: expected this or that, got value`."""
    by_key: dict[str, list[Any]] = {}
    known: dict[str, Iterable[str]] = {}
    for mistake in error.errors():
        key, fields = _locate(mistake["loc"], model)
        by_key.setdefault(key, []).append(mistake)
        known[key] = fields
    for key, mistakes in by_key.items():
        kind, message = mistakes[0]["type"], mistakes[0]["msg"]
        if kind == "extra_forbidden":
            yield f"{key}: unknown key{did_you_mean(key.rpartition('.')[2], known[key])}"
        elif kind == "missing":
            yield f"{key}: is required"
        elif kind == "value_error":
            yield f"{key}: {message.removeprefix('Value error, ')}"
        else:
            wanted = dict.fromkeys(m["msg"].removeprefix("Input should be ") for m in mistakes)
            yield f"{key}: expected {' or '.join(wanted)}, got {_short(repr(mistakes[0]['input']))}"


def _short(text: str, length: int = 80) -> str:
    return text if len(text) < length else text[: length - 3] + "..."


def _locate(location: Sequence[str | int], section: type[BaseModel]) -> tuple[str, Iterable[str]]:
    """The dotted key of a mistake and the keys known beside it. What follows a setting's own key
    (branches of a union, positions in a list) says nothing to a reader and is dropped."""
    keys: list[str] = []
    for part in location:
        keys.append(str(part))
        field = section.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            break
        section = field.annotation
    return ".".join(keys) or "recipe", section.model_fields
