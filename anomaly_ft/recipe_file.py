"""A YAML file and command-line overrides to a validated `Recipe`, or all mistakes in it at once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel

from anomaly_ft.errors import RecipeError, did_you_mean
from anomaly_ft.recipe import EXPONENT, Recipe, Section

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
        raise RecipeError(source, list(_word(cause, model))) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file, not validated.

    Raises:
        RecipeError: no file, no text, no YAML, or no sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(str(path), ["file does not exist"]) from None
    except (OSError, UnicodeDecodeError) as cause:
        raise RecipeError(str(path), [f"cannot be read as text: {cause}"]) from cause
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        kind = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise RecipeError(str(path), [f"expected sections with settings, such as 'data:', got {kind}"])
    return tree


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a text", node.start_mark)
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_implicit_resolver(*EXPONENT)
_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _UniqueKeyLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError(source, [f"{where}not valid YAML: {cause.problem or cause.context}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        raise RecipeError(source, [f"not valid YAML: {cause}"]) from None


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
            got = repr(mistakes[0]["input"])
            yield f"{key}: expected {' or '.join(wanted)}, got {got if len(got) < 80 else got[:77] + '...'}"


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
