from pathlib import Path

import pytest

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.sweep import Resources, read_sweep

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").rglob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bottle", "screw"):
        (tmp_path / name).mkdir()
    (tmp_path / "base.yaml").write_text(f"data: {{root: {tmp_path}}}\noptimizer: {{lr: 3e-4}}\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text.format(folder=folder))
    return path


def mistakes(folder: Path, text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        read_sweep(write(folder, text), overrides)
    return caught.value.mistakes


def test_a_sweep_is_every_category_with_every_setting_and_seed(folder: Path) -> None:
    text = """
        name: both
        recipe: base.yaml
        categories: {{bottle: "{folder}/bottle", screw: "{folder}/screw"}}
        settings:
          plain: {{}}
          late blocks: {{encoder.train_blocks: [blocks.5, blocks.6], optimizer.lr: 1e-5}}
        seeds: [3, 4]
        resources: {{cpus: 2}}
    """
    sweep = read_sweep(write(folder, text), ["schedule.max_epochs=2"])
    assert sweep.name == "both"
    assert sweep.resources == Resources(cpus=2)
    assert [job.recipe.name for job in sweep.jobs] == [
        "bottle-plain-seed3", "bottle-plain-seed4", "bottle-late_blocks-seed3", "bottle-late_blocks-seed4",
        "screw-plain-seed3", "screw-plain-seed4", "screw-late_blocks-seed3", "screw-late_blocks-seed4",
    ]  # fmt: skip
    recipe = sweep.jobs[3].recipe
    assert (recipe.data.root, recipe.seed) == (f"{folder}/bottle", 4)
    assert (recipe.encoder.train_blocks, recipe.optimizer.lr) == (("blocks.5", "blocks.6"), 1e-5)
    assert sweep.jobs[0].recipe.optimizer.lr == 3e-4
    assert {job.recipe.schedule.max_epochs for job in sweep.jobs} == {2}


def test_without_lists_a_sweep_is_the_recipe_once(folder: Path) -> None:
    (job,) = read_sweep(write(folder, "recipe: base.yaml")).jobs
    assert (job.category, job.setting, job.recipe.name) == ("", "", "seed0")
    assert job.recipe.data.root == str(folder)


def test_mistakes_of_the_sweep_come_at_once(folder: Path) -> None:
    found = mistakes(folder, "recipie: base.yaml\nseeds: [one]\nresources: {{cpus: -1}}")
    assert "recipie: unknown key (did you mean 'recipe'?)" in found
    assert "recipe: is required" in found
    assert any(mistake.startswith("seeds: expected a valid integer") for mistake in found)
    assert any(mistake.startswith("resources.cpus: expected greater than or equal to 0") for mistake in found)


def test_mistakes_of_runs_come_at_once_and_name_the_run(folder: Path) -> None:
    text = """
        recipe: base.yaml
        categories: {{bottle: "{folder}/bottle", gone: "{folder}/gone"}}
        settings: {{fast: {{optimizer.lr: fast}}, plain: {{}}}}
        seeds: [0, 1]
    """
    found = mistakes(folder, text)
    assert len(found) == 4, "each once, whatever the seeds"
    assert found[0].startswith("bottle/fast: optimizer.lr: expected a valid number, got 'fast'")
    assert f"gone/plain: data.root: folder does not exist: {folder}/gone" in found


def test_names_that_would_be_one_are_refused(folder: Path) -> None:
    text = "recipe: base.yaml\nsettings: {{a b: {{}}, a_b: {{}}}}"
    assert mistakes(folder, text) == ("a_b-seed0: 2 runs have this name",)
    assert mistakes(folder, "recipe: base.yaml\nseeds: [1, 1]") == ("seed1: 2 runs have this name",)


def test_a_recipe_that_is_not_there_is_named(folder: Path) -> None:
    assert mistakes(folder, "recipe: other.yaml") == ("other.yaml: file does not exist",)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_sweep_of_the_project_reads(path: Path) -> None:
    assert len(read_sweep(path).jobs) > 1
    assert f"anomaly-ft sweep sweeps/{path.name}" in path.read_text()


def test_there_are_sweeps_to_read() -> None:
    assert SWEEPS
