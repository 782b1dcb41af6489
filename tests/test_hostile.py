"""Files from strangers: every one ends with one message and exit code 2, or is used as what it says."""

import io
import json
import os
import random
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from anomaly_ft.cli.main import main
from anomaly_ft.data.images import MAX_PIXELS, Decoder
from anomaly_ft.data.layouts import manifest, tables
from anomaly_ft.data.loaded import decode_all
from anomaly_ft.data.records import Record
from anomaly_ft.errors import AnomalyFtError, RecipeError
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.settings import SCORES
from anomaly_ft.recipe.read import LARGEST, read_recipe
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.section import EXPERT, places
from anomaly_ft.run.prediction_rows import columns, header
from anomaly_ft.tracking.interface import NullTracker

LONGEST = 20_000  # characters of a message
AT_LEAST = {
    "recipes": 1500,
    "trees": 200,
    "manifests": 300,
    "images": 190,
    "runs": 60,
    "records": 90,
    "exports": 60,
}
MORE = pytest.mark.faults


def test_the_default_suite_tries_two_thousand_inputs() -> None:
    assert sum(AT_LEAST.values()) >= 2000  # each of these tests counts its own


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, *untouched: Path, begun: str = "") -> None:
    """One message, exit code 2, no traceback, nothing written but what may have `begun`."""
    assert result.exit_code == 2, (result.output[-2000:], result.exception)
    assert isinstance(result.exception, SystemExit)
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    assert result.stdout in ("", begun)
    assert len(result.stderr) < LONGEST
    for path in untouched:
        assert not path.exists()


# recipes

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
VALUES = [
    "", "~", "[]", "{}", "[[]]", "{a: 1}", "true", "-1", "0", "1e999", "-1e999", ".nan", ".inf", "-.inf",
    "9" * 5000, "-" + "9" * 400, "0x" + "f" * 300, "1:2:3", "2001-99-99", "2001-01-01", "1e-400", "''", '"\\0"',
    '"\\ud800"', '"\\uffff"', "'" + "x" * 70_000 + "'", "!!python/object/apply:os.system [id]",
    "!!python/name:os",
    "!!binary x", "!!int ''", "!!bool x", "!!float x", "!!timestamp x", "!!set {a}", "!!omap [a: 1]", "!x y",
    "!!null x", "!!str [a]", "!!seq a", "!!map a", "&a [*a]", "*a", "<<: x", "=", "[" * 3000, "{a: " * 2000,
    "${oc.env:HOME}", "'a${b'", "???",
    "'unfinished", "\t- x", "%YAML 9", "--- a\n--- b", "@x", "`x", "? x", "\x00",
    "\x07", "\x85", "../../etc/passwd",
    "/etc/passwd", "file:///etc/passwd", "http://192.0.2.1/x", "[1, 2, 3]", "[.nan, .inf]", "[5, 4]", "'[' ",
    "(a+)+$", "[{Lambda: {image: x}}]", "[{NoSuch: {}}]", "[{HorizontalFlip: {p: nine}}]", "[{Resize: 3}]",
]  # fmt: skip
WHOLE = [
    BOMB, "", "[]", "x", "42", "null", "\x00", "\ufeff", "- data",
    "data: &a {root: x}\nencoder: *a", "[" * 10**5,
    "{" * 10**5, "data: " * 3000, "data:\n  <<: [1]\n", "data: {root: x, root: y}",
    "1: 2", "[1]: 2", "? [a]\n: b",
    "data: x\n" * 2, "a: b\n" * 20_000, "x" * 300_000, "\n".join(f"key{i}: 1" for i in range(15_000)),
    "%TAG ! tag:x,2000:\n---\n!y z", "data: !!python/module:os", "!!python/object/new:os.system [id]",
    "data: {root: !!python/tuple [a]}", "--- !!binary |\n  ZGF0YQ==", "? ? ? a", "data: {root: 'a\x01b'}",
]  # fmt: skip


def settings() -> list[str]:
    """The dotted key of every setting."""
    return list(places(Recipe))


def nested(key: str, value: str, root: str) -> str:
    """A recipe with one setting written as `value`, whatever that is."""
    *path, name = key.split(".")
    line = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(path))
    line += f"{'  ' * len(path)}{name}: {value}\n"
    return line + (
        "" if key == "data.root" else f"  root: {root}\n" if path == ["data"] else f"data: {{root: {root}}}\n"
    )


def mutated(seed: int) -> bytes:
    """A sound recipe with some bytes changed, doubled or left out."""
    rng = random.Random(seed)
    text = bytearray(SOUND)
    for _ in range(rng.randint(1, 12)):
        at, kind = rng.randrange(len(text)), rng.random()
        if kind < 0.4:
            text[at] = rng.randrange(256)
        elif kind < 0.7:
            text[at : at + rng.randint(1, 30)] = b""
        else:
            text[at:at] = text[rng.randrange(len(text)) :][: rng.randint(1, 40)]
    return bytes(text)


SOUND = b"""
name: part
seed: 3
data: {root: no/such/folder, image_size: 64, range: [0, 4095]}
encoder: {name: test_efficientnet, weights: random}
validation:
  augmentations: [scar, cutmix]
optimizer: {lr: 1e-4, batch_size: 16}
schedule: {max_epochs: 2}
tracking: {mlflow: false, uri: 'http://127.0.0.1:9'}
runtime: {device: cpu, precision: fp32}
expert:
  data: {augment: [{HorizontalFlip: {p: 0.5}}]}
  encoder: {levels: [0, bn2]}
  gaussian: {score: fused, shrinkage: 0.5, grid: 4, smoothing: 0.5}
  validation: {severity: 0.5}
  optimizer: {name: adam}
  schedule: {patience: 3}
  runtime: {threads: 1}
"""


def recipe_inputs(values: list[str], mutations: int) -> Iterator[bytes]:
    yield from (whole.encode("utf-8", "surrogatepass") for whole in WHOLE)
    for key in settings():
        for value in values:
            yield nested(key, value, "no/such/folder").encode("utf-8", "surrogatepass")
    yield from map(mutated, range(mutations))


def try_recipes(folder: Path, values: list[str], mutations: int) -> int:
    """All of them lack a data root that holds images, so none of them trains: nearly all have a mistake, and
    where the root is a file that happens to exist, reading it ends with one message."""
    tried, output, path = 0, folder / "runs", folder / "recipe.yaml"
    for content in recipe_inputs(values, mutations):
        path.write_bytes(content)
        said = ""
        try:
            read_recipe(path)
        except RecipeError as mistakes:
            said = str(mistakes)
            said.encode("utf-8", "backslashreplace")
        assert len(said) < LONGEST
        if not said or tried % 10 == 0:
            assert_refused(command("train", path, "--output", output), output)
        tried += 1
    return tried


def test_a_recipe_from_a_stranger_ends_with_one_message(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(0)
    tries = try_recipes(tmp_path, rng.sample(VALUES, 18), mutations=500)
    record_property("tries", tries)
    assert tries >= AT_LEAST["recipes"]


@MORE
def test_every_value_in_every_setting_ends_with_one_message(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tries = try_recipes(tmp_path, VALUES, mutations=10_000)
    record_property("tries", tries)
    assert tries >= 12_000


def test_a_hostile_value_alone_is_refused_or_is_the_setting(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path, outcomes = tmp_path / "recipe.yaml", Counter[str]()
    for key in settings():
        for value in random.Random(key).sample(VALUES, 8):
            path.write_bytes(nested(key, value, str(tmp_path)).encode("utf-8", "surrogatepass"))
            said, recipe = outcome(read_recipe, path)
            outcomes["refused" if said else "taken"] += 1
            if recipe:
                path.write_bytes(recipe.to_yaml().encode())
                assert read_recipe(path) == recipe
    record_property("tries", outcomes.total())
    assert outcomes["refused"] > 300
    assert outcomes["taken"] > 5


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted({key.rpartition(".")[2] for key in settings()})
SECTIONS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), TREES, max_size=5)
TOP = st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)), SECTIONS | TREES, max_size=4)
RECIPES = TOP | st.builds(lambda top, expert: {**top, EXPERT: expert}, TOP, TOP | TREES)


def try_trees(folder: Path, count: int) -> int:
    """Recipes that hypothesis thinks of: refused in words, or read back as what they say."""
    path, tries = folder / "recipe.yaml", Counter[str]()

    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(RECIPES)
    def attempt(tree: Any) -> None:
        path.write_bytes(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))
        said, recipe = outcome(read_recipe, path)
        assert len(said) < LONGEST
        if recipe:
            path.write_text(recipe.to_yaml())
            assert read_recipe(path) == recipe
        tries["all"] += 1

    attempt()
    return tries.total()


def test_any_tree_is_refused_or_is_a_recipe(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tries = try_trees(tmp_path, AT_LEAST["trees"])
    record_property("tries", tries)
    assert tries >= AT_LEAST["trees"]


@MORE
def test_thousands_of_trees_are_refused_or_are_recipes(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", try_trees(tmp_path, 5000))


def test_a_bomb_of_aliases_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMB)
    with pytest.raises(
        RecipeError, match=r"line 2: not valid YAML: \*a: aliases are not read, write the value"
    ):
        read_recipe(path)


def test_a_recipe_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(RecipeError, match="larger than 256 KiB"):
        read_recipe(Path("/dev/zero"))


# manifests

HEAD = "image_path,label_index,split,mask_path\n"
PATHS = [
    "/etc/passwd", "../secret.png", "a/../../secret.png", "..\\secret.png",
    "C:\\secret.png", "\\\\host\\share.png",
    "out.png", "folder/secret.png", "a\x00b.png", "x" * 300 + ".png",
    "d/" * 3000 + "x.png", "", " ", ".", "good",
    "~/x.png", "$HOME/x.png", "good/0.png/x", "file:good/0.png", "good/0.png\n", '"', "\u202e.png", "none.png",
]  # fmt: skip
CELLS = [
    "0",
    "1",
    "2",
    "-1",
    "nan",
    "",
    "train",
    "test",
    "val",
    "\x00",
    "x" * 1000,
    "1e9",
    "True",
    '"',
    "good/0.png",
]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Good images, and links that lead out."""
    root = tmp_path / "part"
    (root / "good").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(root / "good" / f"{i}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "secret.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    return root


def manifest_inputs(rng: random.Random, count: int) -> Iterator[bytes]:
    yield from ((HEAD + f'"{path}",0,train,\n').encode() for path in PATHS)
    yield from ((HEAD + f'good/0.png,1,test,"{path}"\n').encode() for path in PATHS if path.strip())
    yield from (
        b"",
        b"\x00",
        b"\xff\xfe",
        b"PAR1",
        HEAD.encode(),
        b"a,b\n1,2\n",
        HEAD.encode() * 2,
        b"\n" * 9,
        b'"',
    )
    yield (HEAD + "x" * 10_000_000 + ",0,train,\n").encode()
    yield (HEAD + "good/0.png," + "9" * 10_000_000 + ",train,\n").encode()
    yield (HEAD + "," * 9000).encode()
    for _ in range(count):
        rows = [",".join(rng.choice([*CELLS, *PATHS]) for _ in range(rng.randint(1, 6))) for _ in range(3)]
        yield (HEAD + "\n".join(rows)).encode("utf-8", "replace") + rng.randbytes(rng.choice([0, 0, 9]))


def outcome(read: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """What an input was refused with, or what it was taken for."""
    try:
        return "", read(*arguments)
    except AnomalyFtError as error:
        return str(error), ()


def try_manifests(part: Path, count: int) -> int:
    tried, path = 0, part / "manifest.csv"
    for content in manifest_inputs(random.Random(1), count):
        path.write_bytes(content)
        if tried % 20 == 0:
            assert_refused(command("data", path))
        else:
            said, records = outcome(manifest.read_manifest, path, part)
            assert len(said) < LONGEST
            assert all(os.path.realpath(record.path).startswith(str(part)) for record in records)
        tried += 1
    return tried


def test_a_manifest_from_a_stranger_ends_with_one_message(
    part: Path, record_property: Callable[[str, object], None]
) -> None:
    tries = try_manifests(part, 250)
    record_property("tries", tries)
    assert tries >= AT_LEAST["manifests"]


@MORE
def test_thousands_of_manifests_end_with_one_message(
    part: Path, record_property: Callable[[str, object], None]
) -> None:
    tries = try_manifests(part, 10_000)
    record_property("tries", tries)
    assert tries >= 10_000


@pytest.mark.parametrize("path", ["out.png", "folder/secret.png"])
def test_a_manifest_that_came_with_its_images_cannot_lead_out_over_a_link(path: str, part: Path) -> None:
    (part / "manifest.csv").write_text(HEAD + f"good/0.png,0,train,\n{path},0,train,\n")
    result = command("data", part / "manifest.csv")
    assert_refused(result)
    assert f"row 3: image_path leads out of the manifest's folder over a link: {path}" in result.stderr


def test_ones_own_manifest_may_use_ones_own_links(part: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text(HEAD + "out.png,0,train,\n")
    assert [record.name for record in manifest.read_manifest(own, part)] == ["out.png"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_has_a_limit_of_rows(kind: str, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 5)
    table = pd.DataFrame({"image_path": ["good/0.png"] * 6, "label_index": ["0"] * 6})
    path = part / f"manifest.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    result = command("data", path)
    assert_refused(result)
    assert "5" in result.stderr
    assert "rows" in result.stderr


# images


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data or zlib.compress(b"\x00" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(kind: str, **options: Any) -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (37, 23, 3), dtype=np.uint8)).save(file, kind, **options)
    return file.getvalue()


def strips() -> Iterator[bytes]:
    for size in ((1, 1), (1, 20_000), (20_000, 1), (2, 3)):
        file = io.BytesIO()
        Image.new("L", size, 9).save(file, "PNG")
        yield file.getvalue()


def image_inputs(count: int) -> Iterator[bytes]:
    kinds = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
    sound = [encoded(kind) for kind in kinds]
    sound += [encoded("PNG", icc_profile=b"junk" * 99), encoded("JPEG", icc_profile=b"\x00" * 999)]
    sound += [encoded("JPEG", exif=b"Exif\x00\x00junk"), encoded("PNG", exif=b"MM\x00*" + b"\xff" * 40)]
    frames = [Image.new("P", (9, 9), i) for i in range(4)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].convert("RGB").save(
            file, kind, save_all=True, append_images=[f.convert("RGB") for f in frames[1:]]
        )
        sound.append(file.getvalue())
    yield from sound
    yield from strips()
    yield from (
        png(w, h) for w, h in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (0, 0), (0, 5), (60_000, 60_000))
    )
    yield png(20_000, 20_000, zlib.compress(b"\x00" * 10**7, 9))
    yield from (
        b"",
        b"\x00",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"BM" + b"\xff" * 60,
        b"II*\x00\xff\xff\xff\xff",
        b"RIFF",
    )
    rng = random.Random(2)
    for i in range(count):
        data = bytearray(sound[i % len(sound)])
        if i % 3 == 0:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randint(1, 20)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        yield bytes(data)


def try_images(folder: Path, count: int, resize: Any) -> Counter[str]:
    """Each becomes an image of the size asked for, or a line that says why not."""
    records, outcomes = [], Counter[str]()
    for i, content in enumerate(image_inputs(count)):
        path = folder / f"{i}{['.png', '.jpg', '.tif', '.bmp', '.webp'][i % 5]}"
        path.write_bytes(content)
        records.append(Record(folder, path.name, "train"))
    for found in decode_all(records, Decoder(32, resize, None)):
        if isinstance(found, str):
            assert 0 < len(found) < 500
            assert "\n" not in found
            outcomes["refused"] += 1
        else:
            assert found.shape == (32, 32, 3)
            assert found.dtype == np.uint8
            outcomes["decoded"] += 1
    return outcomes


@pytest.mark.filterwarnings("ignore")  # decoders warn of damage before they give up
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_an_image_from_a_stranger_is_decoded_or_named(
    resize: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = try_images(tmp_path, 160, resize)
    record_property("tries", outcomes.total())
    assert outcomes["refused"] > 40
    assert outcomes["decoded"] > 15
    assert outcomes.total() >= AT_LEAST["images"]


@MORE
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
def test_thousands_of_images_are_decoded_or_named(
    resize: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tries = try_images(tmp_path, 5000, resize).total()
    record_property("tries", tries)
    assert tries >= 5000


def test_a_strip_too_long_to_be_cut_is_named_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    Image.new("L", (1, 20_000)).save(path)
    with pytest.raises(ValueError, match="1 x 20000 pixels are too long a strip for resize: center-crop"):
        Decoder(224, "center-crop", None)(path)


# run folders

JUNK: list[Any] = [
    None, True, -1, 0, 10**9, 10**30, 1.5, "", "x", "../../etc",
    "/etc/passwd", [], {}, [[]], ["x"] * 9, [10**9],
    {"a": {}}, float("nan"), float("inf"), "x" * 5000, "\x00",
]  # fmt: skip


def edited(value: Any, rng: random.Random) -> Any:
    """A JSON document with one place changed, left out, or added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1:
            return value | {"extra": rng.choice(JUNK)}
        return value | {key: edited(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], edited(value[at], rng), *value[at + 1 :]]
    return rng.choice(JUNK)


def tamper(run: Path, rng: random.Random) -> None:
    kind = rng.choice(["json", "json", "json", "recipe", "bytes", "tensors", "swap", "missing", "text"])
    file = rng.choice(["detector.json", "encoder/config.json"])
    tensors = rng.choice(["detector.safetensors", "encoder/model.safetensors"])
    if kind == "json":
        path = run / file
        path.write_text(json.dumps(edited(json.loads(path.read_text()), rng)))
    elif kind == "recipe":
        tree = edited(yaml.safe_load((run / "recipe.yaml").read_text()), rng)
        (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
    elif kind == "bytes":
        data = bytearray((run / tensors).read_bytes())
        for _ in range(rng.randint(1, 9)):
            data[rng.randrange(200)] = rng.randrange(256)
        (run / tensors).write_bytes(data)
    elif kind == "tensors":
        state = load_file(run / tensors)
        key = rng.choice(list(state))
        changed = rng.choice([torch.zeros(1), torch.full_like(state[key].float(), torch.nan), state[key][None]])
        save_file(state | {key: changed.clone().contiguous()}, run / tensors)
    elif kind == "swap":
        a, b = run / "detector.safetensors", run / "encoder" / "model.safetensors"
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second), b.write_bytes(first)
    elif kind == "missing":
        (run / rng.choice([file, tensors])).unlink()
    else:
        (run / file).write_text(rng.choice(["", "{", "[" * 10**5, "null", "\x00", '"x"', "NaN", "[1]"]))


def copied(run: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("*.html", "*.png"))
    return to


def try_runs(run: Path, folder: Path, count: int) -> Counter[str]:
    """A tampered run is refused, or what was changed does not matter to its scores' being numbers."""
    outcomes, image = Counter[str](), folder / "image.png"
    Image.new("RGB", (40, 40), "grey").save(image)
    for seed in range(count):
        tamper(copied(run, folder / "run"), random.Random(seed))
        result = command("predict", folder / "run", image)
        if result.exit_code == 0:
            (line,) = result.stdout.splitlines()[1:]
            assert np.isfinite(float(line.split(",")[1]))
            outcomes["harmless"] += 1
        else:
            assert_refused(result, begun=header("csv", columns(SCORES)))
            outcomes["refused"] += 1
        assert {path.name for path in folder.iterdir()} == {"run", "image.png"}
    return outcomes


def test_a_run_folder_from_a_stranger_is_refused_or_gives_numbers(
    small_run: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = try_runs(small_run, tmp_path, AT_LEAST["runs"])
    record_property("tries", outcomes.total())
    assert outcomes["refused"] > 20


@MORE
def test_many_tampered_run_folders_are_refused_or_give_numbers(
    small_run: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = try_runs(small_run, tmp_path, 1000)
    record_property("tries", outcomes.total())
    assert outcomes["refused"] > 400


RECORDS = ("summary.json", "summary.json", "history.jsonl", "split.csv", "recipe.yaml")


def tamper_records(run: Path, rng: random.Random) -> None:
    """Change what a run says of itself, not what computes."""
    path = run / rng.choice(RECORDS)
    text, kind = path.read_text(), rng.random()
    if kind < 0.6 and path.suffix == ".json":
        text = json.dumps(edited(json.loads(text), rng))
    elif kind < 0.6 and path.suffix == ".jsonl":
        text += json.dumps(edited(json.loads(text.splitlines()[0]), rng)) + "\n"
    elif kind < 0.6 and path.suffix == ".yaml":
        text = yaml.safe_dump(edited(yaml.safe_load(text), rng))
    elif kind < 0.8:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["\x00", "'", '"', "}", ",", "9" * 5000, "\ud800", text]) + text[at + 1 :]
    else:
        text = rng.choice(["", "{", "[" * 10**5, "null", "\x00", '"x"', "NaN", "[1]", "{}\n{}"])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def try_records(run: Path, folder: Path, count: int) -> Counter[str]:
    """Each reader refuses it with one message, or is not troubled by it. Nothing is logged anywhere."""
    outcomes = Counter[str]()
    readers: list[tuple[str, ...]] = [("compare", "run"), ("sync", "run"), ("promote", "run", "--name", "x")]
    for seed in range(count):
        tamper_records(copied(run, folder / "run"), random.Random(seed))
        name, _, *options = readers[seed % len(readers)]
        result = command(name, folder / "run", *options)
        if result.exit_code == 0:
            outcomes["harmless"] += 1
        else:
            assert_refused(result)
            outcomes["refused"] += 1
        assert [path.name for path in folder.iterdir()] == ["run"]
    return outcomes


@pytest.fixture
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_ft.run.sync.make_tracker", lambda *_, **__: nullcontext(NullTracker()))


@pytest.mark.usefixtures("no_tracking")
def test_records_from_a_stranger_are_refused_or_are_used_as_what_they_say(
    small_run: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = try_records(small_run, tmp_path, AT_LEAST["records"])
    record_property("tries", outcomes.total())
    assert outcomes["refused"] > 40


@MORE
@pytest.mark.usefixtures("no_tracking")
def test_thousands_of_records_are_refused_or_used(
    small_run: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", try_records(small_run, tmp_path, 3000).total())


def test_a_link_in_a_run_folder_is_not_sent_anywhere(small_run: Path, tmp_path: Path, store: str) -> None:
    (tmp_path / "secret").write_text("mine")
    run = copied(small_run, tmp_path / "run")
    (run / "notes.txt").symlink_to(tmp_path / "secret")
    result = command("sync", run, "--store", store)
    assert_refused(result)
    assert "notes.txt is a link, which no run has" in result.stderr


def test_a_run_folder_cannot_have_a_database_made(small_run: Path, tmp_path: Path) -> None:
    run, made = copied(small_run, tmp_path / "run"), tmp_path / "made.db"
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    tree["tracking"] |= {"mlflow": True, "uri": f"sqlite:///{made}"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))
    result = command("sync", run)
    assert_refused(result, made)
    assert "name one with anomaly-ft sync --store" in result.stderr


# exported folders


@pytest.fixture(scope="module")
def exported(small_run: Path, mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of `small_run` as timm has it."""
    folder = tmp_path_factory.mktemp("exported") / "encoder"
    images = mvtec_folder / "test" / "hole"
    done = command("export", small_run, "--format", "timm", "--images", images, "--output", folder)
    assert done.exit_code == 0, done.output
    return folder


def try_exports(exported: Path, root: Path, folder: Path, count: int) -> Counter[str]:
    """A tampered one is refused as weights, or is an encoder of the kind it was asked for."""
    outcomes = Counter[str]()
    for seed in range(count):
        source, rng = copied(exported, folder / "encoder"), random.Random(seed)
        config, tensors = source / "config.json", source / "model.safetensors"
        if rng.random() < 0.6:
            config.write_text(json.dumps(edited(json.loads(config.read_text()), rng)))
        elif rng.random() < 0.5:
            data = bytearray(tensors.read_bytes())
            for _ in range(rng.randint(1, 9)):
                data[rng.randrange(200)] = rng.randrange(256)
            tensors.write_bytes(data)
        else:
            state = load_file(tensors)
            key = rng.choice(list(state))
            save_file(state | {key: rng.choice([torch.zeros(1), state[key][None].clone()])}, tensors)
        weights = f"local-dir:{source}"
        said, encoder = outcome(partial(load_encoder, "test_efficientnet", weights, image_size=64))
        assert len(said) < LONGEST
        assert said or encoder.image_size == 64
        outcomes["refused" if said else "taken"] += 1
        if seed % 20 == 0 and said:
            (folder / "r.yaml").write_text(
                f"data: {{root: '{root}', image_size: 64}}\n"
                f"encoder: {{name: test_efficientnet, weights: '{weights}'}}\n"
            )
            assert_refused(command("train", folder / "r.yaml", "--output", folder / "runs"), folder / "runs")
    return outcomes


def test_an_exported_folder_from_a_stranger_is_refused_or_is_an_encoder(
    exported: Path, mvtec_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcomes = try_exports(exported, mvtec_folder, tmp_path, AT_LEAST["exports"])
    record_property("tries", outcomes.total())
    assert outcomes["refused"] > 20


@MORE
def test_thousands_of_exported_folders_are_refused_or_are_encoders(
    exported: Path, mvtec_folder: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", try_exports(exported, mvtec_folder, tmp_path, 2000).total())


@pytest.mark.parametrize("name", ["predict", "evaluate", "export", "sync", "compare", "promote"])
def test_an_exported_folder_is_no_run(name: str, exported: Path, tmp_path: Path) -> None:
    more = {
        "predict": [tmp_path], "promote": ["--name", "x"], "evaluate": ["--output", tmp_path / "out"],
        "export": ["--format", "timm", "--output", tmp_path / "out"],
    }  # fmt: skip
    assert_refused(command(name, exported, *more.get(name, [])), tmp_path / "out")


# where results go


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    return {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "x",
        "nobody's": Path("/proc/none/x"),
        "root": Path("/"),
        "long": tmp_path / ("x" * 300),
        "the run": tmp_path / "run",
        "dangling": tmp_path / "dangling",
    }


@pytest.mark.parametrize("kind", ["file", "below a file", "nobody's", "root", "long", "the run", "dangling"])
def test_an_export_goes_into_a_new_folder_or_nowhere(
    kind: str, outputs: dict[str, Path], small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    run = copied(small_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = command(
        "export", run, "--format", "timm", "--images", mvtec_folder / "test" / "hole", "--output", outputs[kind]
    )
    if kind == "dangling":  # one's own link says where
        assert result.exit_code == 0, result.output
        assert (tmp_path / "nowhere" / "x" / "config.json").is_file()
    else:
        assert_refused(result)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("kind", ["file", "below a file", "nobody's", "long"])
@pytest.mark.parametrize("name", ["predict", "evaluate", "train", "sweep"])
def test_an_output_that_cannot_be_a_folder_is_one_message(
    name: str, kind: str, outputs: dict[str, Path], small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(f"recipe: {small_run / 'recipe.yaml'}\n")
    arguments: dict[str, list[object]] = {
        "predict": [small_run, mvtec_folder / "test" / "hole"],
        "evaluate": [small_run],
        "train": [small_run / "recipe.yaml"],
        "sweep": [tmp_path / "s.yaml"],
    }
    result = command(name, *arguments[name], "--output", outputs[kind])
    assert_refused(result)
    assert (tmp_path / "file").read_text() == "mine"


# limits


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/troubleshooting.md"])
def test_the_limits_that_are_stated_are_those_that_are_kept(page: str) -> None:
    text = Path(__file__).parents[1].joinpath(page).read_text(encoding="utf-8")
    assert f"{MAX_PIXELS:,} pixels" in text
    assert f"{tables.MAX_ROWS:,} rows" in text
    assert f"{tables.MAX_BYTES // 2**30} GiB" in text
    assert f"{LARGEST // 1024} KiB" in text
    assert Image.MAX_IMAGE_PIXELS
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS, "Pillow refuses what is larger"


@pytest.mark.parametrize("seed", range(3))
def test_a_tampered_encoder_folder_is_no_weights_source(
    seed: int, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    encoder = copied(small_run, tmp_path / "run") / "encoder"
    (encoder / "config.json").write_text(
        [
            "[]",
            '{"architecture": 3}',
            '{"architecture": "test_efficientnet", "pretrained_cfg": {"mean": "abc"}}',
        ][seed]
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{root: '{mvtec_folder}', image_size: 64}}\n"
        f"encoder: {{name: test_efficientnet, weights: 'local-dir:{encoder}'}}\n"
    )
    assert_refused(command("train", recipe, "--output", tmp_path / "runs"), tmp_path / "runs")
