"""The rules of the design that a reader would otherwise have to check by eye."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomaly_ft.cli.main import main

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "anomaly_ft"
MODULES = sorted(PACKAGE.rglob("*.py"))

# rooms, floor by floor, from what knows nothing to what knows all; those on one floor may not know one another
FLOORS = [
    ["errors"],
    ["metrics"],
    ["system"],
    ["recipe", "data"],
    ["model", "tracking"],
    ["finetune", "evaluation", "deploy", "analysis"],
    ["run"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
KNOW_THE_RECIPE = {"recipe", "run", "cli"}

# who alone may import a library; the others use what these make of it
OWNERS = {
    "albumentations": {"data"},
    "click": {"cli"},
    "cv2": {"data"},
    "filelock": {"run"},
    "matplotlib": {"evaluation"},
    "mlflow": {"tracking", "deploy"},
    "onnx": {"deploy", "model"},  # model: weights that a package carries as a graph
    "onnxruntime": {"deploy"},
    "openvino": {"deploy"},
    "peft": {"model"},
    "pydantic": {"recipe", "run"},
    "ray": {"run"},
    "rich": {"run"},
    "safetensors": {"model", "finetune", "deploy"},
    "timm": {"model"},
    "yaml": {"recipe"},
}
HEAVY = {
    "torch",
    "onnx",
    "openvino",
    "timm",
    "mlflow",
    "albumentations",
    "sklearn",
    "scipy",
    "pandas",
    "lightning_fabric",
    "numpy",
}


TEMPLATES = sorted(PACKAGE.rglob("*.j2"))
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")])


def names_of(tree: ast.Module) -> set[str]:
    """What stands at the top of a module and can be imported from it."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def part(module: Path) -> str:
    """The folder of a module, or its own name where it lies on top."""
    relative = module.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in a module, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: Path) -> set[str]:
    """Parts of the package that a module imports from."""
    names = [name.split(".") for name in imports(ast.parse(module.read_text(encoding="utf-8")))]
    return {name[1] for name in names if name[0] == "anomaly_ft" and name[1] != "__version__"}


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


every_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


def test_every_room_has_its_floor() -> None:
    assert {part(module) for module in MODULES} - {"__init__"} == set(FLOOR)


@every_module
def test_modules_import_from_their_own_room_or_from_floors_below(module: Path) -> None:
    own = part(module)
    if own == "__init__":
        assert own_imports(module) == set()
        return
    wrong = {name for name in own_imports(module) if name != own and FLOOR[name] >= FLOOR[own]}
    assert wrong == set()


@every_module
def test_the_recipe_is_known_to_those_who_take_it_apart_alone(module: Path) -> None:
    if own_imports(module) & {"recipe"}:
        assert part(module) in KNOW_THE_RECIPE


@every_module
def test_each_library_has_its_owner(module: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(ast.parse(module.read_text(encoding="utf-8")))}
    foreign = {library for library in libraries & OWNERS.keys() if part(module) not in OWNERS[library]}
    assert foreign == set()


def test_no_two_test_files_share_a_name() -> None:
    """Folders of tests are no packages, so pytest cannot import two files of one name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_owners_use_what_they_own() -> None:
    used = {
        (library, part(m)) for m in MODULES for library in OWNERS if library in m.read_text(encoding="utf-8")
    }
    assert {library for library, _ in used} == set(OWNERS), "a library nobody uses has no owner"


def runs_at_import(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported: not those inside functions or for type checkers alone."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, ast.With | ast.Try):
            waiting += node.body


def graph_of_modules(*, at_import: bool) -> dict[str, set[str]]:
    """Which module imports which, by full name."""
    names = {"anomaly_ft." + name_of(m).removesuffix(".py").replace("/", "."): m for m in MODULES}
    graph: dict[str, set[str]] = {}
    for own, module in names.items():
        tree = ast.parse(module.read_text(encoding="utf-8"))
        nodes = runs_at_import(tree) if at_import else [tree]
        found = {name for node in nodes for name in imports(node)}
        graph[own] = {part for name in found for part in (name, name.rpartition(".")[0]) if part in names} - {
            own
        }
    return graph


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest way from one to another, each importing the next.

    Raises:
        AssertionError: some of them import one another.
    """
    done: dict[str, list[str]] = {}
    while left := graph.keys() - done.keys():
        ready = [name for name in left if (graph[name] & graph.keys()) <= done.keys()]
        assert ready, f"these import one another: {sorted(left)}"
        for name in ready:
            below = [done[other] for other in graph[name] if other in done]
            done[name] = [name, *max(below, key=len, default=[])]
    return max(done.values(), key=len)


def test_modules_make_no_cycle_and_no_long_chain() -> None:
    at_import = longest_chain(graph_of_modules(at_import=True))
    assert len(at_import) <= 10, at_import
    everywhere = longest_chain(graph_of_modules(at_import=False))
    assert len(everywhere) <= 13, everywhere


def test_rooms_stand_on_seven_floors() -> None:
    rooms = {part(module): set[str]() for module in MODULES}
    for module in MODULES:
        rooms[part(module)] |= own_imports(module) - {part(module)}
    rooms.pop("__init__")
    rooms.pop("__main__")
    chain = longest_chain(rooms)
    assert len(chain) <= 7, chain


def test_a_cycle_and_a_chain_are_found() -> None:
    assert longest_chain({"a": {"b"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    with pytest.raises(AssertionError, match="import one another"):
        longest_chain({"a": {"b"}, "b": {"a"}})


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions, classes and methods whose names say that others may use them."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            methods = (m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from (
                method
                for method in methods
                if not method.name.startswith("_") and "overload" not in map(ast.unparse, method.decorator_list)
            )


@every_module
def test_everything_public_says_what_it_does(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert [node.name for node in public_functions(tree) if not ast.get_docstring(node)] == []


# what a recipe may choose has a name there too
NAME_SCORES = re.compile(r"\b(pooled|dense|fused)\b")
MAY_NAME_SCORES = ("model/", "finetune/methods/", "recipe/schema.py")


@every_module
def test_scores_are_named_where_they_are_made_alone(module: Path) -> None:
    if name_of(module).startswith(MAY_NAME_SCORES):
        return
    tree = ast.parse(module.read_text(encoding="utf-8"))
    texts = {
        id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    }
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    named = [n.value for n in strings if id(n) not in texts and NAME_SCORES.search(n.value)]
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and NAME_SCORES.fullmatch(n.id)]
    attributes = [
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and NAME_SCORES.fullmatch(n.attr)
    ]
    assert [*named, *names, *attributes] == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_name_no_score_and_no_map(template: Path) -> None:
    """What a detector's scores and maps are, its `labels` say."""
    assert re.findall(r"\b(pooled|dense|fused|contribution)\b", template.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_only_what_the_package_has(script: Path) -> None:
    """Benchmarks take hours and are seldom run; what they import inside functions may have moved."""
    missing = []
    for name in imports(ast.parse(script.read_text(encoding="utf-8"))):
        module, _, wanted = name.rpartition(".")
        if not name.startswith("anomaly_ft.") or (ROOT / name.replace(".", "/")).is_dir():
            continue
        file = ROOT / f"{module.replace('.', '/')}.py"
        if file.is_file() and wanted in names_of(ast.parse(file.read_text(encoding="utf-8"))):
            continue
        if not (ROOT / f"{name.replace('.', '/')}.py").is_file() and module != "anomaly_ft":
            missing.append(name)
    assert missing == []


@every_module
def test_folders_re_export_nothing(module: Path) -> None:
    if module.name != "__init__.py":
        return
    statements = ast.parse(module.read_text(encoding="utf-8")).body
    kept = [s for s in statements if not isinstance(s, ast.Expr)]
    if part(module) == "__init__":  # what it offers is loaded when asked for
        kept = [s for s in kept if not isinstance(s, ast.Import | ast.ImportFrom)]
        kept = [s for s in kept if not (isinstance(s, ast.FunctionDef) and s.name == "__getattr__")]
    assert all(isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "__version__" for s in kept)


@every_module
def test_every_module_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))


@every_module
def test_no_module_and_no_function_is_long(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: length for f in functions if (length := (f.end_lineno or 0) - f.lineno + 1) > 60}
    assert long == {}


def many_arguments(tree: ast.Module) -> dict[str, int]:
    """Functions of more than six arguments, `self` and `cls` aside. A command's function is exempt: click gives
    it every option as an argument of its own, and nobody else calls it."""
    counts = {}
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
        arguments = [
            a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        ]
        count = len([name for name in arguments if name not in ("self", "cls")])
        decorators = {ast.unparse(decorator).split("(")[0] for decorator in function.decorator_list}
        is_command = any(name.endswith(".command") for name in decorators)
        if count > 6 and not is_command:
            counts[function.name] = count
    return counts


@every_module
def test_no_function_has_more_than_six_arguments(module: Path) -> None:
    assert many_arguments(ast.parse(module.read_text(encoding="utf-8"))) == {}


def test_a_seventh_argument_is_found_unless_click_gives_it() -> None:
    text = "{}def f(self, a, b, c, d, *, e, f, g): ..."
    assert many_arguments(ast.parse(text.format(""))) == {"f": 7}
    assert many_arguments(ast.parse(text.replace(", g", "").format(""))) == {}
    assert many_arguments(ast.parse(text.format("@click.command()\n"))) == {}
    assert many_arguments(ast.parse(text.format("@click.pass_context\n"))) == {"f": 7}


@every_module
def test_what_a_user_can_cause_is_raised_and_not_asserted(module: Path) -> None:
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    assert not any(isinstance(node, ast.Assert) for node in nodes)


WORKERS = {
    "multiprocessing",
    "torch.multiprocessing",
    "torch.utils.data",
    "concurrent.futures.ProcessPoolExecutor",
}


@every_module
def test_a_run_has_no_worker_processes_that_could_be_lost(module: Path) -> None:
    names = set(imports(ast.parse(module.read_text(encoding="utf-8"))))
    assert not {name for name in names if f"{name}.".startswith(tuple(f"{worker}." for worker in WORKERS))}
    assert "concurrent.futures.ProcessPoolExecutor" not in names


@pytest.mark.parametrize("module", ["anomaly_ft", "anomaly_ft.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, runpy; sys.argv = ['anomaly-ft', *sys.argv[1:]]\n"
        "try: runpy.run_module('anomaly_ft', run_name='__main__')\n"
        "except SystemExit as end: print('code', end.code)\n"
        "print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    *text, end, loaded = done.stdout.splitlines()
    assert end == "code 0"
    assert HEAVY & set(loaded.split()) == set()
    assert any("anomaly-ft" in line for line in text)


@pytest.mark.parametrize("name", ["", *main.commands])
def test_every_command_shows_an_example(name: str) -> None:
    command = main.commands[name] if name else main
    assert command.help
    assert re.search(rf"Examples?:\n(.*\n)*.*anomaly-ft {name}", command.help)


def test_every_command_module_is_on_the_command_line() -> None:
    modules = {path.stem for path in (PACKAGE / "cli").glob("*.py")} - {
        "__init__",
        "main",
        "options",
        "diagnose",
    }
    assert modules == set(main.commands)
