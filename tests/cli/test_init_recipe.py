from pathlib import Path

import pytest
from click.testing import CliRunner

from anomaly_ft.cli.main import main
from anomaly_ft.recipe import shipped
from anomaly_ft.recipe.read import read_recipe

NAMES = sorted(shipped.shipped_recipes())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_that_comes_along_is_written_as_it_is(name: str) -> None:
    result = CliRunner().invoke(main, ["init", "--recipe", name])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"{name}.yaml"
    text = Path(f"{name}.yaml").read_text()
    assert f"anomaly-ft train {name}.yaml" in text
    assert read_recipe(Path(f"{name}.yaml"), check_root=False) == read_recipe(
        shipped.shipped_recipes()[name], check_root=False
    )


def test_a_file_that_is_there_is_kept_unless_forced() -> None:
    Path("mine.yaml").write_text("name: mine")
    refused = CliRunner().invoke(main, ["init", "--recipe", "frozen", "mine.yaml"])
    assert refused.exit_code == 2
    assert Path("mine.yaml").read_text() == "name: mine"
    assert CliRunner().invoke(main, ["init", "--recipe", "frozen", "mine.yaml", "--force"]).exit_code == 0
    assert "frozen" in Path("mine.yaml").read_text()


def test_an_unknown_name_gets_those_that_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", "--recipe", "quickstrat"])
    assert result.exit_code == 2
    assert "no recipe 'quickstrat' (did you mean 'quickstart'?); there are" in result.stderr
    assert CliRunner().invoke(main, ["init"]).exit_code == 2
    monkeypatch.setattr(shipped, "BESIDE", tmp_path / "no clone")
    monkeypatch.setattr(shipped, "INSTALLED", tmp_path / "share")
    assert "installed without them" in CliRunner().invoke(main, ["init", "--recipe", "frozen"]).stderr
    monkeypatch.setattr(shipped, "FOR_USER", tmp_path / "home" / "share")
    (tmp_path / "home" / "share").mkdir(parents=True)
    (tmp_path / "home" / "share" / "mvtec.yaml").write_text("name: of one user")
    assert list(shipped.shipped_recipes()) == ["mvtec"]
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "frozen.yaml").write_text("name: from a wheel")
    assert CliRunner().invoke(main, ["init", "--recipe", "frozen"]).exit_code == 0
    assert Path("frozen.yaml").read_text() == "name: from a wheel"
