"""What a recipe may ask of adapters, and what it may not."""

from pathlib import Path

import pytest

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.read import read_recipe


def read(tmp_path: Path, *settings: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {root: data}\n")
    read_recipe(file, settings, check_root=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ("encoder.adapt=lora", "expert.objective.l2_sp=0.1"),
            r"l2_sp is not for encoder\.adapt: lora; leave",
        ),
        (
            ("encoder.adapt=lora", "expert.schedule.average=true"),
            r"average is not for encoder\.adapt: lora; l",
        ),
        (("encoder.adapt=lora", "model.kind=filter"), r"encoder\.adapt: of model\.kind: gaussian alone"),
        (("encoder.adapt=dora",), r"encoder\.adapt: expected 'full' or 'lora', got 'dora'"),
        (("expert.encoder.rank=0",), r"expert\.encoder\.rank: .* greater than or equal to 1, got 0"),
    ],
)
def test_what_does_not_go_with_adapters_is_refused_by_name(
    settings: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=said):
        read(tmp_path, *settings)


@pytest.mark.parametrize(
    "settings",
    [
        ("encoder.adapt=lora", "expert.objective.distillation=0.1", "expert.schedule.interpolate=[0.5]"),
        ("encoder.adapt=lora", "encoder.train_blocks=[blocks.5]", "expert.encoder.rank=4"),
        ("expert.objective.l2_sp=0.1", "expert.schedule.average=true"),
    ],
)
def test_what_goes_with_them_is_taken(settings: tuple[str, ...], tmp_path: Path) -> None:
    read(tmp_path, *settings)
