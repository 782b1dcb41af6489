from pathlib import Path

import pytest
import yaml

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.section import BEGINNER, sections

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(tmp_path: Path, text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, text), overrides)
    assert str(caught.value).count("\n") >= len(caught.value.mistakes)
    return caught.value.mistakes


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    return read_recipe(write(tmp_path, text), overrides)


def test_only_the_root_is_required(tmp_path: Path) -> None:
    recipe = read(tmp_path, f"data: {{root: {tmp_path}}}")
    assert recipe == Recipe.model_validate({"data": {"root": str(tmp_path)}})
    assert mistakes(tmp_path, "name: x") == ("data: is required",)
    assert mistakes(tmp_path, "data: {}") == ("data.root: is required",)


def test_all_mistakes_come_at_once_with_guesses(tmp_path: Path) -> None:
    text = """
        name: bottle
        data: {root: data/botle}
        encoder: {nmae: resnet18}
        expert: {gaussian: {shrinkage: 1.5}}
        optimiser: {lr: 1}
        seed: -1
    """
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{tmp_path / 'recipe.yaml'}: 5 mistakes"
    assert set(lines) == {
        "  data.root: folder does not exist: data/botle",
        "  encoder.nmae: unknown key (did you mean 'name'?)",
        "  expert.gaussian.shrinkage: expected 'ledoit_wolf' or less than or equal to 1, got 1.5",
        "  optimiser: unknown key (did you mean 'optimizer'?)",
        "  seed: expected greater than or equal to 0, got -1",
    }


def test_one_mistake_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml: 1 mistake\n  x: unknown key$"):
        read(tmp_path, f"data: {{root: {tmp_path}}}\nx: 1")


@pytest.mark.parametrize(
    ("setting", "mistake"),
    [
        ("schedule.max_epochs='3'", "schedule.max_epochs: expected a valid integer, got '3'"),
        ("schedule.max_epochs=2.5", "schedule.max_epochs: expected a valid integer, got 2.5"),
        ("schedule.max_epochs=true", "schedule.max_epochs: expected a valid integer, got True"),
        ("optimizer.lr=fast", "optimizer.lr: expected a valid number, got 'fast'"),
        ("optimizer.lr=0", "optimizer.lr: expected greater than 0, got 0"),
        ("optimizer.lr=.nan", "optimizer.lr: expected a finite number, got nan"),
        ("optimizer.lr=.inf", "optimizer.lr: expected a finite number, got inf"),
        ("tracking.mlflow=1", "tracking.mlflow: expected a valid boolean, got 1"),
        ("runtime.device=gpu", "runtime.device: expected 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
        ("data.image_size=16", "data.image_size: expected greater than or equal to 32 or a list, got 16"),
        ("encoder=resnet18", "encoder: expected settings, such as encoder.name, got 'resnet18'"),
        ("validation.augmentations=[]", "validation.augmentations: "),
        ("validation.augmentations=[scar, snow]", "validation.augmentations: expected 'auto' or 'mixup', "),
        (
            "expert.gaussian.smoothing=4.7",
            "gaussian: expert.gaussian.smoothing 4.7 is too wide for a grid of 12 positions",
        ),
        (
            "expert.gaussian.statistics=averaged",
            "expert.gaussian.statistics: expected 'pretrained' or 'refit', got",
        ),
        (
            "data.resize=squash",
            "data.resize: expected 'stretch', 'center-crop', 'letterbox' or 'native', got 'squash'",
        ),
        ("expert.data=3", "expert.data: expected settings, such as expert.data.on_error, got 3"),
        ("expert.gaussian=3", "expert.gaussian: expected settings, such as expert.gaussian.score, got 3"),
        ("expert=3", "expert: expected settings, such as expert.data.on_error, got 3"),
        ("name=../../etc", "name: "),
        ("name=a/b", "name: "),
    ],
)
def test_settings_of_a_wrong_type_or_size_are_mistakes(setting: str, mistake: str, tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"data: {{root: {tmp_path}}}", setting)
    assert found.startswith(mistake)


def test_enough_images_stay_to_fit(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, f"data: {{root: {tmp_path}}}\nexpert: {{data: {{val_share: 0.5, calibration_share: 0.4}}}}"
    )
    assert found == ("data: expert.data.val_share and calibration_share together may take at most 0.8",)


def test_the_value_in_a_message_is_cut_when_long(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"data: {{root: {tmp_path}}}", f"seed={'9' * 30}{'x' * 300}")
    assert found.endswith("...")
    assert len(found) < 150


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: 1 mistake\n  file does not exist"):
        read_recipe(tmp_path / "none.yaml")


def test_a_folder_or_binary_file_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read as text"):
        read_recipe(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read as text"):
        read_recipe(tmp_path / "image.png")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "nothing"), ("- a\n- b", "a list"), ("data", "a single value"), ("3", "a single value")],
)
def test_a_yaml_that_is_not_a_mapping_is_a_mistake(text: str, kind: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, text) == (f"expected sections with settings, such as 'data:', got {kind}",)


def test_a_key_given_twice_is_a_mistake_with_its_line(tmp_path: Path) -> None:
    (top,) = mistakes(tmp_path, "name: a\nseed: 1\nname: b\n")
    assert top == "line 3: not valid YAML: found duplicate key name"
    (nested,) = mistakes(tmp_path, "name: a\noptimizer:\n  lr: 1\n  lr: 2\n")
    assert nested == "line 4: not valid YAML: found duplicate key lr"


@pytest.mark.parametrize("text", ["data: [", "data: {root: x", "\tdata: 1", "a: b: c", "data: 'x"])
def test_broken_yaml_is_a_mistake_with_its_line(text: str, tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, text)
    assert found.startswith("line ")
    assert "not valid YAML" in found


@pytest.mark.parametrize("text", ["1: 2", "data: {2: x}", "2.5: 1"])
def test_keys_are_texts(text: str, tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, text)
    assert "is not a text" in found


def test_yaml_tags_run_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    text = f"data: {{root: {tmp_path}}}\nname: !!python/object/apply:os.mkdir ['{trap}']"
    (found,) = mistakes(tmp_path, text)
    assert "could not determine a constructor" in found
    assert not trap.exists()


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "1.e-4", "+1e-4"])
def test_numbers_with_an_exponent_are_numbers(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"data: {{root: {tmp_path}}}\noptimizer: {{lr: {text}}}").optimizer.lr == 1e-4
    assert read(tmp_path, f"data: {{root: {tmp_path}}}", f"optimizer.lr={text}").optimizer.lr == 1e-4


def test_a_quoted_number_stays_a_text(tmp_path: Path) -> None:
    assert read(tmp_path, f"data: {{root: {tmp_path}}}\nname: '1e-4'").name == "1e-4"


def test_overrides_win_and_the_last_one_most(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        f"data: {{root: {tmp_path}}}\noptimizer: {{lr: 0.1, batch_size: 4}}",
        "optimizer.lr=0.2", "optimizer.lr=0.3", "seed=7", "expert.encoder.levels=[0, bn2]", "tracking.uri=http://a/b?c=d",
    )  # fmt: skip
    assert (recipe.optimizer.lr, recipe.optimizer.batch_size, recipe.seed) == (0.3, 4, 7)
    assert recipe.encoder.levels == (0, "bn2")
    assert recipe.tracking.uri == "http://a/b?c=d"


@pytest.mark.parametrize("override", ["seed", "=1", "optimizer.=1", ".lr=1", "a..b=1"])
def test_an_override_without_key_and_value_is_a_mistake(override: str, tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"data: {{root: {tmp_path}}}", override)
    assert found == f"override {override!r}: expected KEY=VALUE, such as optimizer.lr=1e-4"


def test_an_override_takes_the_place_of_a_list_whatever_it_is(tmp_path: Path) -> None:
    text = f"data: {{root: {tmp_path}}}\nvalidation: {{augmentations: [line, warp]}}"
    assert read(tmp_path, text, "validation.augmentations=auto").validation.augmentations == "auto"
    assert read(tmp_path, text, "validation.augmentations=[blend]").validation.augmentations == ("blend",)
    (found,) = mistakes(tmp_path, text, "validation.augmentations.first=line")
    assert found == "validation.augmentations: expected 'auto' or a list, got {'first': 'line'}"


def test_an_override_below_a_plain_value_is_a_mistake(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"data: {{root: {tmp_path}}}\nseed: 3", "seed.x=1")
    assert found == "seed: expected a valid integer, got {'x': 1}"


def test_an_unknown_override_is_a_mistake_with_a_guess(tmp_path: Path) -> None:
    found = mistakes(tmp_path, f"data: {{root: {tmp_path}}}", "optimizer.lrr=1", "shedule.patience=1")
    assert set(found) == {
        "optimizer.lrr: unknown key (did you mean 'lr'?)",
        "shedule: unknown key (did you mean 'schedule'?)",
    }


def test_an_override_with_broken_yaml_is_a_mistake_of_the_override(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"^override 'expert\.encoder\.levels=\[0': 1 mistake\n  line 1: not valid YAML"
    ):
        read(tmp_path, f"data: {{root: {tmp_path}}}", "expert.encoder.levels=[0")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("gaussian.grid", "expert.gaussian.grid"),
        ("gaussian.gird", "expert.gaussian.grid"),
        ("runtime.cache_dir", "expert.runtime.cache_dir"),
        ("expert.optimizer.lr", "optimizer.lr"),
        ("expert.seed", "seed"),
        ("expert.grid", "expert.gaussian.grid"),
        ("max_epochs", "schedule.max_epochs"),
        ("schedule.lr", "optimizer.lr"),
        ("expert.schedule.patiense", "patience"),
        ("exprt", "expert"),
    ],
)
def test_a_key_in_the_wrong_place_is_named_with_its_right_one(wrong: str, right: str, tmp_path: Path) -> None:
    found = mistakes(tmp_path, f"data: {{root: {tmp_path}}}", f"{wrong}=1")
    assert found == (f"{wrong}: unknown key (did you mean '{right}'?)",)


def test_sections_are_not_joined_by_dots_in_a_file(tmp_path: Path) -> None:
    found = mistakes(tmp_path, f"data: {{root: {tmp_path}}}\noptimizer.lr: 1")
    assert found == ("optimizer.lr: unknown key",)


def test_mistakes_under_expert_come_with_all_others(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "data: 3\nexpert: {data: {on_error: x}, gaussian: [], x: 1}")
    assert set(found) == {
        "data: expected settings, such as data.root, got 3",
        "data.root: is required",
        "expert.data.on_error: expected 'skip' or 'fail', got 'x'",
        "expert.gaussian: expected settings, such as expert.gaussian.score, got ()",
        "expert.x: unknown key",
    }


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "a ${name} b", "${", "???"])
def test_nothing_is_filled_in_from_the_environment(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "leaked")
    root = f"data: {{root: {tmp_path}}}\n"
    (in_file,) = mistakes(tmp_path, f"{root}tracking:\n  experiment: '{text}'")
    assert in_file == f"line 3: not valid YAML: {text!r}: variables are not filled in, write the value itself"
    (in_override,) = mistakes(tmp_path, root, f"tracking.experiment='{text}'")
    assert in_override == in_file.replace("line 3", "line 1")


@pytest.mark.parametrize("text", ["[" * 100_000, "data: " + "{a: " * 20_000])
def test_what_is_nested_too_deeply_is_refused_at_once(text: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, text) == ("line 1: not valid YAML: nested too deeply",)


def test_a_date_is_a_text(tmp_path: Path) -> None:
    assert read(tmp_path, f"data: {{root: {tmp_path}}}\nname: 2001-01-01").name == "2001-01-01"


def test_the_settings_of_a_beginner_are_those_of_the_schema() -> None:
    for section, names in BEGINNER.items():
        assert set(names) <= set(sections(Recipe)[section].model_fields)
    others = {section: names for section, names in BEGINNER.items() if section != "variation"}  # one choice
    assert sum(map(len, others.values())) <= 30


def test_a_recipe_does_not_change(tmp_path: Path) -> None:
    recipe = read(tmp_path, f"data: {{root: {tmp_path}}}")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        recipe.optimizer.lr = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "expert.encoder.levels=[0, blocks.2, -1]",
            "encoder.train_blocks=[bn2]",
            "expert.gaussian.dense_levels=[1]",
        ),
        (
            "expert.gaussian.shrinkage=0.25",
            "expert.validation.severity=0.5",
            "tracking.uri=sqlite:///x.db",
            "name='1e-4'",
        ),
        ("validation.augmentations=[mixup]", "optimizer.lr=1e-4", "data.root=demo:elpv-poly"),
    ],
)
def test_the_resolved_recipe_reads_back_as_an_equal_object(overrides: tuple[str, ...], tmp_path: Path) -> None:
    recipe = read(tmp_path, f"data: {{root: {tmp_path}}}", *overrides)
    text = recipe.to_yaml()
    assert read(tmp_path, text) == recipe
    assert yaml.safe_load(text)["expert"]["schedule"]["patience"] == recipe.schedule.patience, (
        "defaults are written out"
    )


def test_a_recipe_from_another_machine_reads_without_its_data(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {root: /no/such/folder}")
    assert read_recipe(path, check_root=False).data.root == "/no/such/folder"
    with pytest.raises(RecipeError, match=r"data\.root: folder does not exist: /no/such/folder"):
        read_recipe(path)


@pytest.mark.parametrize("key", ["root", "manifest"])
@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-at-all/parts"])
def test_a_name_that_cannot_be_a_path_is_one_that_does_not_exist(key: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"data": {"root": str(tmp_path), key: name}}))
    with pytest.raises(RecipeError, match=rf"data\.{key}: (file|folder) does not exist"):
        read_recipe(path)


def test_flat_holds_every_setting_under_its_dotted_key(tmp_path: Path) -> None:
    flat = read(tmp_path, f"data: {{root: {tmp_path}}}", "optimizer.lr=3e-5").flat()
    assert flat["optimizer.lr"] == 3e-5
    assert flat["expert.optimizer.layer_decay"] == 1
    assert flat["data.root"] == str(tmp_path)
    assert flat["seed"] == 0
    assert not any(isinstance(value, dict) for value in flat.values())


def test_there_are_recipes() -> None:
    assert {path.name for path in RECIPES} >= {"quickstart.yaml", "mvtec.yaml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_reads_and_says_how_to_run_it(path: Path) -> None:
    recipe = read_recipe(path, check_root=False)
    assert recipe.name == path.stem
    text = path.read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("run ", "needs ", "time ", "result "):
        assert any(line.removeprefix("#").strip().startswith(word) for line in comments), word


def test_every_setting_is_explained() -> None:
    schema = Recipe.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    unexplained = [
        f"{section['title']}.{key}"
        for section in sections
        for key, field in section["properties"].items()
        if "description" not in field and "$ref" not in str(field)
    ]
    assert unexplained == []
