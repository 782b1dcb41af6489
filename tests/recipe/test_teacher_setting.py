"""What a recipe may ask of a teacher, and what it may not."""

from pathlib import Path

import pytest

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe

TEACHER = "objective.teacher=vit_small_patch14_dinov2"


def read(tmp_path: Path, *settings: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {root: data}\n")
    return read_recipe(file, settings, check_root=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("expert.objective.teacher_strength=3",), r"teacher_strength is of objective\.teacher; name one"),
        (("expert.objective.teacher_levels=[1]",), r"teacher_levels is of objective\.teacher; name one"),
        (("expert.objective.teacher_weights=hub",), r"teacher_weights is of objective\.teacher; name one"),
        ((TEACHER, "expert.objective.teacher_strength=0"), r"teacher_strength: .* greater than 0, got 0"),
        (("objective.teacher=pixels",), r"objective\.teacher: pixels is no encoder and teaches nothing"),
        ((TEACHER, "model.kind=filter"), r"objective\.teacher: of model\.kind: gaussian alone"),
        (("expert.objective.teacher=resnet18",), r"unknown key \(did you mean 'objective\.teacher'\?\)"),
    ],
)
def test_what_a_teacher_cannot_have_is_refused_by_name(
    settings: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=said):
        read(tmp_path, *settings)


def test_a_teacher_goes_with_adapters_and_brakes(tmp_path: Path) -> None:
    more = ("encoder.adapt=lora", "expert.objective.distillation=0.1", "expert.objective.teacher_levels=[3, 6]")
    recipe = read(tmp_path, TEACHER, *more)
    assert recipe.objective.teacher == "vit_small_patch14_dinov2"
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml())
    assert read_recipe(again, check_root=False) == recipe
