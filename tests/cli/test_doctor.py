import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import anomaly_ft.cli.diagnose
from anomaly_ft import __version__
from anomaly_ft.cli.main import main


def test_the_version_comes_with_those_of_every_library_required() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    found = dict(line.split(" ") for line in result.stdout.splitlines())
    assert found["anomaly-ft"] == __version__
    assert found["torch"] == version("torch")
    config = (Path(__file__).parents[2] / "setup.cfg").read_text()
    required = re.search(r"install_requires =\n((?:    .+\n)+)", config)
    assert required
    names = {re.split("[<>=]", line.strip())[0] for line in required[1].splitlines()}
    assert names == set(found) - {"anomaly-ft", "python"}


def diagnosed(*arguments: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """The exit code, and state and text of the findings by topic."""
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments])
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(result.stdout):
        found.setdefault(finding["topic"], []).append((finding["state"], finding["says"]))
    return result.exit_code, found


def test_a_sound_machine_has_nothing_bad(tmp_path: Path) -> None:
    code, found = diagnosed("--output", str(tmp_path))
    assert code == 0
    topics = {topic.partition(":")[0] for topic in found}  # cuda:0 where there is one
    assert {"system", "packages", "cpu", "cuda", "mps", "weights", "hub cache", "output folder"} <= topics
    ((state, says),) = found["MLflow store"]
    assert state == "note"
    assert "does not exist yet" in says
    assert list(tmp_path.iterdir()) == []


def test_text_is_a_line_for_each_finding(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--output", str(tmp_path)])
    assert result.exit_code == 0
    assert all(re.match("(ok  |note|BAD )  [a-zA-Z]", line) for line in result.stdout.splitlines())


def test_a_store_is_asked(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient(store).search_experiments()
    code, found = diagnosed("--store", store)
    assert (code, found["MLflow store"]) == (0, [("ok", f"{store} answers")])
    (tmp_path / "mlflow.db").write_text("no database, and long enough to be seen as one that is damaged" * 20)
    code, found = diagnosed("--store", f"sqlite:///{tmp_path / 'mlflow.db'}")
    ((state, says),) = found["MLflow store"]
    assert (code, state) == (2, "bad")
    assert "train would go on without it" in says


def test_a_missing_package_a_full_disk_and_a_folder_that_cannot_be_written_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        anomaly_ft.cli.diagnose, "_version", lambda name: "missing" if name == "timm" else "1.0"
    )
    monkeypatch.setattr(anomaly_ft.cli.diagnose, "ROOM", 2**80)
    code, found = diagnosed("--output", str(tmp_path))
    assert code == 2
    assert ("bad", "missing: timm; pip install timm") in found["packages"]
    assert found["output folder"][0][0] == "bad"
    monkeypatch.setattr(anomaly_ft.cli.diagnose.os, "access", lambda *_: False)
    assert "is not writable" in diagnosed("--output", str(tmp_path / "new"))[1]["output folder"][0][1]


def test_weights_that_are_not_installed_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_ft.model.encoder.packaged.PACKAGES", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--timm--resnet50").mkdir(parents=True)
    _, found = diagnosed("--output", str(tmp_path))
    assert found["weights"][0][0] == "note"
    assert "models--timm--resnet50" in found["hub cache"][0][1]
