"""The section of benign variation: presets, strengths of one's own, and what is refused."""

from pathlib import Path

import pytest

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.variation import PRESETS

FEW = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def read(*overrides):
    return read_recipe(FEW, overrides, check_root=False)


def test_by_default_a_camera_may_vary():
    assert read().variation.strengths() == PRESETS["camera"]


def test_a_strength_of_ones_own_replaces_the_presets_and_zero_switches_off():
    strengths = read(
        "variation.preset=light", "variation.brightness=0.3", "variation.gamma=0"
    ).variation.strengths()
    assert strengths == {**{k: v for k, v in PRESETS["light"].items() if k != "gamma"}, "brightness": 0.3}


def test_a_change_joins_a_preset_that_lacks_it():
    assert read("variation.preset=none", "variation.rotation=5").variation.strengths() == {"rotation": 5.0}


def test_a_written_recipe_is_read_again_as_it_was(tmp_path):
    recipe = read("variation.focus=0.5")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "recipe.yaml", check_root=False) == recipe


def test_unknown_variations_and_strengths_out_of_range_are_named_all_at_once():
    with pytest.raises(RecipeError) as mistakes:
        read("variation.fokus=1", "variation.noise=90", "variation.shift=-1", "variation.preset=lab")
    text = str(mistakes.value)
    assert "variation.fokus: unknown key (did you mean 'focus'?)" in text
    for key in ("variation.noise", "variation.shift", "variation.preset"):
        assert key in text


@pytest.mark.parametrize(
    ("augmentation", "benign"),
    [("blur", "focus"), ("noise", "noise"), ("colour", "brightness"), ("augmix", "shift")],
)
def test_what_is_benign_cannot_be_a_pseudo_anomaly(augmentation, benign):
    with pytest.raises(
        RecipeError, match=rf"{augmentation} \(as variation\..*{benign}.*cannot be a pseudo-anomaly"
    ):
        read(f"validation.augmentations=[cutmix,{augmentation}]")


def test_a_pseudo_anomaly_may_be_what_is_not_benign_here():
    assert read("variation.focus=0", "validation.augmentations=[blur]").validation.augmentations == ("blur",)
    assert read("variation.preset=none", "validation.augmentations=[augmix]").variation.strengths() == {}


def test_a_clash_is_named_together_with_mistakes_elsewhere():
    with pytest.raises(RecipeError) as mistakes:
        read("validation.augmentations=[noise]", "optimizer.lr=-1")
    text = str(mistakes.value)
    assert "2 mistakes" in text
    assert "validation: augmentations: noise (as variation.noise)" in text
    assert "optimizer.lr" in text
