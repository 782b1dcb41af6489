"""The shortcut audit of what a run has decoded, and where people see it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.data.checks.audit import FINE, LITTLE, LOOK, SHORTCUT
from anomaly_ft.data.checks.report import inspect
from anomaly_ft.data.dataset import Options, load_dataset
from anomaly_ft.data.splits import Shares
from anomaly_ft.run.analyse import audit_dataset, uncovered, with_audit

SHARES = Shares(val=0.2, calibration=0.2)


@pytest.fixture(scope="module")
def dark_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose 60 good test images are darker than its training and its defective images."""
    root, rng = tmp_path_factory.mktemp("dark test"), np.random.default_rng(0)
    for group, light in {"train/good": 130, "test/good": 95, "test/hole": 130}.items():
        (root / group).mkdir(parents=True)
        for i in range(60):
            image = np.clip(rng.normal(light + 4 * rng.normal(), 15, (40, 60, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / group / f"{i:02}.png")
    return root


def test_data_says_what_the_numbers_are_worth_and_names_three_images(dark_test: Path) -> None:
    done = CliRunner().invoke(main, ["data", str(dark_test)])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("worth ")]
    assert line.startswith(f"worth     {LITTLE}: the good test images were taken otherwise")
    seen = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("  see ")]
    assert len(seen) == 3
    assert all((dark_test / name).is_file() for name in seen)


def test_the_json_of_data_holds_the_audit(dark_test: Path) -> None:
    found = json.loads(CliRunner().invoke(main, ["data", str(dark_test), "--json"]).stdout)["audit"]
    assert found["verdict"] == LITTLE
    assert {"question", "property", "auroc", "low", "high", "level"} <= found["rows"][0].keys()


def test_the_recipe_of_init_says_it_in_its_comments(dark_test: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["init", str(dark_test), str(tmp_path / "r.yaml")])
    assert done.exit_code == 0, done.output
    assert f"#   worth   {LITTLE}: the good test images" in (tmp_path / "r.yaml").read_text()


def test_analyse_shortcuts_shows_every_property_and_writes_them_as_csv(dark_test: Path, tmp_path: Path) -> None:
    table = tmp_path / "all.csv"
    done = CliRunner().invoke(main, ["analyse", "shortcuts", str(dark_test), "--csv", str(table)])
    assert done.exit_code == 0, done.output
    rows = table.read_text().splitlines()
    assert rows[0].startswith("question,property,auroc,low,high")
    assert all(
        f"{name} alone: AUROC" in done.stdout for name in ("brightness", "noise", "red cast", "sharpness")
    )
    assert len(rows) - 1 == done.stdout.count(": AUROC ")


def test_analyse_shortcuts_of_good_images_alone_says_what_is_missing(dark_test: Path) -> None:
    done = CliRunner().invoke(main, ["analyse", "shortcuts", str(dark_test / "train" / "good")])
    assert done.exit_code == 2
    assert "has no test images, so there is no number to doubt" in done.stderr


def test_a_table_that_cannot_be_written_is_an_error(dark_test: Path, tmp_path: Path) -> None:
    options = ["--csv", str(tmp_path / "nowhere" / "all.csv")]
    done = CliRunner().invoke(main, ["analyse", "shortcuts", str(dark_test), *options])
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
def test_a_run_comes_to_the_verdict_of_the_files(dark_test: Path, resize: str) -> None:
    data = load_dataset(str(dark_test), image_size=48, options=Options(resize=resize), shares=SHARES)  # type: ignore[arg-type]
    audit = audit_dataset(data, resize)  # type: ignore[arg-type]
    files = with_audit(inspect(str(dark_test), shares=SHARES)).audit
    assert audit is not None
    assert files is not None
    assert audit.verdict == files.verdict == LITTLE
    assert audit.counts == files.counts


def test_a_file_that_has_gone_since_is_left_out(dark_test: Path, tmp_path: Path) -> None:
    data = load_dataset(str(dark_test), image_size=32, shares=SHARES)
    gone = dark_test / "test" / "hole" / "07.png"
    gone.rename(tmp_path / "07.png")
    try:
        audit = audit_dataset(data, "stretch", progress=lambda items, *_: items)
    finally:
        (tmp_path / "07.png").rename(gone)
    assert audit is not None
    assert audit.counts["defective test"] == 59


def test_a_run_without_test_images_has_no_audit(dark_test: Path) -> None:
    data = load_dataset(str(dark_test / "train" / "good"), image_size=32, shares=SHARES)
    assert audit_dataset(data, "stretch") is None
    assert with_audit(inspect(str(dark_test / "train" / "good"), shares=SHARES)).audit is None


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (50, 50), (200, 3)])
def test_letterbox_bars_are_taken_off_and_nothing_else(size: tuple[int, int]) -> None:
    from anomaly_ft.data.images import resize_image

    boxed = np.asarray(resize_image(Image.new("RGB", size, "white"), 48, "letterbox"))
    inner = uncovered(boxed, size, "letterbox")
    assert inner.min() == 255
    assert inner.sum() == boxed.sum()
    assert uncovered(boxed, size, "stretch") is boxed


def test_the_summary_and_the_report_of_a_run_hold_the_audit(small_run: Path) -> None:
    found = json.loads((small_run / "summary.json").read_text())["shortcuts"]
    assert found["counts"] == {"good training": 24, "good test": 6, "defective test": 4}
    assert "10 are needed" in found["says"]
    assert "Are the test numbers worth anything?" in (small_run / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("mtd", {FINE}), ("mvtec_screw", {LITTLE}), ("bsdata_ballscrew", {LOOK, LITTLE})],
)
def test_real_sets_are_worth_what_is_known_of_them(name: str, verdict: set[str], real_data: Path) -> None:
    if not (real_data / name).is_dir():
        pytest.skip(f"no {name} below {real_data}")
    audit = with_audit(inspect(str(real_data / name), shares=SHARES)).audit
    assert audit is not None
    assert audit.verdict in verdict
    if name == "mvtec_screw":
        row = next(r for r in audit.rows if (r.question, r.property) == (SHORTCUT, "brightness"))
        assert row.auroc > 0.97
