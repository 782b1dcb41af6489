"""Files and folders that a process was killed while it wrote."""

from pathlib import Path

from anomaly_ft.system.files import clear_aside, replace_folder


def encoder(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "model").write_text(content)


def test_what_a_killed_process_wrote_aside_goes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("encoder", ".encoder.new", ".encoder.old"):
        encoder(tmp_path / "run" / name, name)
    (tmp_path / "run" / ".summary.json.new").write_text("{")
    (tmp_path / "run" / ".lock").write_text("")
    (tmp_path / "run" / "news.new").write_text("mine")
    clear_aside(tmp_path)
    left = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")}
    assert left == {"encoder", "encoder/model", ".lock", "news.new"}
    assert (tmp_path / "run" / "encoder" / "model").read_text() == "encoder"


def test_a_folder_lost_while_it_was_replaced_comes_back(tmp_path: Path) -> None:
    encoder(tmp_path / ".encoder.old", "before")
    encoder(tmp_path / ".encoder.new", "after, or half of it")
    clear_aside(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert (tmp_path / "encoder" / "model").read_text() == "before"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("before", "after"):
        replace_folder(tmp_path / "encoder", lambda aside, content=content: encoder(aside, content))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert (tmp_path / "encoder" / "model").read_text() == "after"
