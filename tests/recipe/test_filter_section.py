"""What a recipe of a filter may ask for, and what is refused by key."""

from pathlib import Path

import pytest

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.filter import SAME_AS_CORRUPTION, Filling, Shape
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import USUAL, Augmentation, Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "filter.yaml"
    path.write_text("data:\n  root: nowhere\n")
    return path


def read(path: Path, *overrides: str) -> Recipe:
    return read_recipe(path, ["model.kind=filter", *overrides], check_root=False)


def test_a_filter_is_watched_by_families_that_it_is_not_trained_on(recipe: Path) -> None:
    assert read_recipe(recipe, check_root=False).watched == USUAL
    assert read(recipe).watched == ("line", "stain")
    assert read(recipe, "expert.filter.fillings=[colour]").watched == USUAL
    with_lines = read(recipe, "expert.filter.shapes=[line, curve]")
    assert with_lines.watched == ("stain",)


@pytest.mark.parametrize("name", SAME_AS_CORRUPTION)
def test_a_family_both_trained_on_and_watched_is_refused_by_name(recipe: Path, name: str) -> None:
    shapes = "expert.filter.shapes=[curve, line]"
    with pytest.raises(RecipeError, match=rf"filter: validation\.augmentations: {name} \(as \w+\)"):
        read(recipe, f"validation.augmentations=[{name}, stain]", shapes)
    assert read_recipe(recipe, [f"validation.augmentations=[{name}]", shapes], check_root=False)


def test_families_have_the_names_that_they_have_elsewhere() -> None:
    trained = {*Shape.__args__, *Filling.__args__}
    assert set(SAME_AS_CORRUPTION) <= set(Augmentation.__args__)
    assert {family for same in SAME_AS_CORRUPTION.values() for family in same} <= trained


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("encoder.train_blocks=[blocks.3]", r"encoder\.train_blocks: of model\.kind: gaussian alone"),
        ("expert.schedule.average=true", r"expert\.schedule\.average: of model\.kind: gaussian alone"),
        ("expert.objective.l2_sp=1", r"expert\.objective\.l2_sp: of model\.kind: gaussian alone"),
        ("expert.objective.floor=false", r"expert\.objective\.floor: of model\.kind: gaussian alone"),
        ("filter.textures=/no/such/folder", r"filter\.textures: folder does not exist: /no/such/folder"),
        ("expert.filter.fillings=[]", r"expert\.filter\.fillings: "),
        ("expert.filter.reach=0", r"expert\.filter\.reach: expected "),
    ],
)
def test_what_a_filter_cannot_have_is_refused_by_key(recipe: Path, change: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        read_recipe(recipe, ["model.kind=filter", change, f"data.root={recipe.parent}"])


def test_pixels_are_for_a_filter_that_is_trained(recipe: Path) -> None:
    assert read(recipe, "encoder.name=pixels").encoder.name == "pixels"
    with pytest.raises(RecipeError, match=r"encoder\.name: pixels is for model\.kind: filter"):
        read_recipe(recipe, ["encoder.name=pixels"], check_root=False)
    with pytest.raises(RecipeError, match=r"schedule\.max_epochs: 0 trains nothing"):
        read(recipe, "encoder.name=pixels", "schedule.max_epochs=0")
    assert read(recipe, "schedule.max_epochs=0").model.kind == "filter"  # the encoder's own Gaussians
