"""Read a YAML file and command-line overrides as a validated `Recipe`, or report all mistakes at once.

OmegaConf reads values and overrides (`1e-4` is a number, a key given twice an error). Ours stay how an
override takes the place of what a file has, since OmegaConf cannot merge a word with a list; the limit on a
file's size and the refusal of aliases, since OmegaConf looks at neither before it has read the whole file,
and counts aliases only in newer versions, up to a number that the environment can change; the refusal of its
interpolation, since a recipe from elsewhere must not look into the environment; and the wording of mistakes,
since OmegaConf ends with the first.
"""

import difflib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel

from anomaly_ft.errors import RecipeError, did_you_mean
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.section import BEGINNER, EXPERT, Section, dotted_key, places, sections

LARGEST = 256 * 1024  # bytes
DEEPEST = 50  # lists and sections in each other
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
    tree: Any = read_yaml(path)
    for override in overrides:
        tree = _merged(tree, _override(override, str(path)))
    settings, mistakes = _arrange(tree)
    context = {"check_root": check_root}
    try:
        recipe = Recipe.model_validate(settings, context=context)
    except pydantic.ValidationError as cause:
        mistakes = dict(_word(cause, Recipe)) | mistakes  # a section that is none lacks nothing as well
    except UnicodeEncodeError as cause:
        mistakes |= _no_character(cause)
    if mistakes:
        raise _all_of(mistakes, str(path))
    return recipe


def validate(model: type[S], tree: Mapping[str, Any], source: str) -> S:
    """Make a validated section, other than a recipe, of a tree of settings.

    Raises:
        RecipeError: everything that is wrong with it, at once.
    """
    try:
        return model.model_validate(_tuples(tree, source))
    except pydantic.ValidationError as cause:
        raise _all_of(dict(_word(cause, model)), source) from None
    except UnicodeEncodeError as cause:
        raise _all_of(_no_character(cause), source) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the sections of a YAML file, not validated.

    Raises:
        RecipeError: no file, no text, no YAML, or no sections.
    """
    text, source = _read(path), str(path)
    with _worded(source):
        root = _scan(text)
        if root == "a mapping":
            return dict(_plain(OmegaConf.load(io.StringIO(text)), source))
    raise RecipeError(source, [f"expected sections with settings, such as 'data:', got {root}"])


def _override(override: str, source: str) -> Any:
    """Read `KEY=VALUE` as a tree of one setting."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(source, [f"override {override!r}: expected KEY=VALUE, such as optimizer.lr=1e-4"])
    with _worded(f"override {override!r}"):
        _scan(text)
        return _plain(OmegaConf.from_dotlist([override]), source)


def _merged(tree: Any, change: Any) -> Any:
    """Put a change into a tree: sections grow together, of anything else the change takes the place."""
    if not isinstance(tree, Mapping) or not isinstance(change, Mapping):
        return change
    return {**tree, **{key: _merged(tree.get(key), value) for key, value in change.items()}}


def _scan(text: str) -> str:
    """Refuse, with its line, what YAML or OmegaConf would put in the place of what is written; tell what the
    text holds. Nothing is built here, so a few aliases that stand for more than fits into memory do no harm."""
    root, depth = "nothing", 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            _refuse(f"*{event.anchor}: aliases are not read, write the value itself", event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and ("${" in event.value or event.value == "???"):
            trouble = f"{_short(repr(event.value))}: variables are not filled in, write the value itself"
            _refuse(trouble, event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # the time of YAML's scanner grows with the square of it
            _refuse("nested too deeply", event.start_mark)
        if root == "nothing" and isinstance(event, yaml.NodeEvent):
            kinds: dict[type, str] = {yaml.MappingStartEvent: "a mapping", yaml.SequenceStartEvent: "a list"}
            root = kinds.get(type(event), "a single value")
    return root


def _refuse(problem: str, mark: Any) -> None:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


@contextmanager
def _worded(source: str) -> Iterator[None]:
    """Say what YAML and OmegaConf raise as a `RecipeError`, with its line where there is one."""
    try:
        yield
    except RecipeError:
        raise
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        reason = _short(str(cause.problem or cause.context), MISTAKE)
        raise RecipeError(source, [f"{where}not valid YAML: {reason}"]) from None
    except RecursionError:
        raise RecipeError(source, ["not valid YAML: nested too deeply"]) from None
    except Exception as cause:  # values that say what they are and are not: !!int "", !!timestamp x
        reason = _short(str(cause).partition("\n")[0], MISTAKE)
        raise RecipeError(source, [f"not valid YAML: {type(cause).__name__}: {reason}"]) from None


def _plain(tree: Any, source: str) -> Any:
    return _tuples(OmegaConf.to_container(tree, resolve=False), source)


def _tuples(value: Any, source: str) -> Any:
    """Turn YAML's lists into the tuples that the frozen recipe holds, and its keys into texts."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RecipeError(source, [f"key {_short(repr(key))} is not a text"])
        return {key: _tuples(item, source) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return value
    return tuple(_tuples(item, source) for item in value)


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


def _arrange(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Bring the settings of a file into the sections of code, those under `expert` among the others; and word
    a mistake for each key that is not known where it stands."""
    inner, known = sections(Recipe), places(Recipe)
    settings: dict[str, Any] = {}
    mistakes: dict[str, str] = {}

    def settle(part: Mapping[str, Any], above: str) -> None:
        for name, value in part.items():
            key = above + name
            section = key.removeprefix(f"{EXPERT}.")
            if key in known and "." not in name:
                where, place = known[key]
                (settings.setdefault(where, {}) if where else settings)[place] = value
            elif key != EXPERT and section not in inner:
                guess = _guess(key) if len(mistakes) < SHOWN else ""  # it takes a while, and no more are shown
                mistakes[key] = f"{key}: unknown key{guess}"
            elif isinstance(value, Mapping):
                if section in inner:
                    settings.setdefault(section, {})
                settle(value, f"{key}.")
            else:
                example = next((k for k in known if k.startswith(f"{key}.")), dotted_key(section, "..."))
                mistakes[key] = f"{key}: expected settings, such as {example}, got {_short(repr(value))}"

    settle(tree, "")
    return settings, mistakes


def _guess(key: str) -> str:
    """Guess the key that an unknown one may be meant to be: the same in its right place, a similar one beside
    it, one of the same name elsewhere, or whatever is similar."""
    keys = list(places(Recipe))
    bare = {known.removeprefix(f"{EXPERT}."): known for known in keys}
    wanted, (section, _, name) = key.removeprefix(f"{EXPERT}."), key.rpartition(".")
    if wanted in bare:
        if bare[wanted] == key:
            return ""
        return f" (did you mean '{bare[wanted]}'?)"
    beside = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == section]
    beside += [] if section else [*BEGINNER, EXPERT]
    if near := did_you_mean(name, beside):
        return near
    same = [known for known in keys if known.rpartition(".")[2] == name]
    close = same or [bare[near] for near in difflib.get_close_matches(wanted, bare, n=1)]
    if not close:
        return ""
    return f" (did you mean '{close[0]}'?)"


def _all_of(mistakes: Mapping[str, str], source: str) -> RecipeError:
    lines = [_short(mistake, MISTAKE) for mistake in mistakes.values()]
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return RecipeError(source, [*lines[:SHOWN], *more])


def _no_character(cause: UnicodeEncodeError) -> dict[str, str]:
    return {"": f"holds {cause.object[cause.start : cause.end]!r}, which is no character"}


def _word(error: pydantic.ValidationError, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """List each mistaken key, and a line for it: `section.key: expected this or that, got value`."""
    by_key: dict[str, list[Any]] = {}
    known: dict[str, Iterable[str]] = {}
    for mistake in error.errors():
        key, fields = _locate(mistake["loc"], model)
        by_key.setdefault(key, []).append(mistake)
        known[key] = fields
    for key, mistakes in by_key.items():
        kind, message = mistakes[0]["type"], mistakes[0]["msg"]
        if kind == "extra_forbidden":
            yield key, f"{key}: unknown key{did_you_mean(key.rpartition('.')[2], known[key])}"
        elif kind == "missing":
            yield key, f"{key}: is required"
        elif kind == "value_error":
            yield key, f"{key}: {message.removeprefix('Value error, ')}"
        else:
            messages = (mistake["msg"].removeprefix("Input should be ") for mistake in mistakes)
            wanted = dict.fromkeys(message.replace("a valid tuple", "a list") for message in messages)
            yield key, f"{key}: expected {' or '.join(wanted)}, got {_short(repr(mistakes[0]['input']))}"


def _short(text: str, length: int = 80) -> str:
    if len(text) < length:
        return text
    return text[: length - 3] + "..."


def _locate(location: Sequence[str | int], model: type[BaseModel]) -> tuple[str, Iterable[str]]:
    """Locate the dotted key of a mistake and the keys known beside it. What follows a setting's own key
    (branches of a union, positions in a list) says nothing to a reader and is dropped."""
    keys, inner = [str(part) for part in location[:2]], sections(model)
    if not keys:
        return "recipe", ()
    first, *rest = keys
    if first not in inner:
        return first, model.model_fields
    if model is not Recipe:
        return ".".join(keys), inner[first].model_fields
    if rest:
        return dotted_key(first, rest[0]), inner[first].model_fields
    return first, ()
