"""The shortcut audit on made sets: what was planted is found, what was not planted is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.analysis.shortcuts import audit_shortcuts
from anomaly_ft.data.checks.appearance import appearance, meter, name_pattern, read_header
from anomaly_ft.data.checks.audit import CANNOT_SAY, FINE, LITTLE, LOOK, SHIFT, SHORTCUT, ShortcutAudit
from anomaly_ft.data.records import Record

GROUPS = {"train/good": 60, "test/good": 60, "test/scratch": 60}
Save = Callable[[Image.Image, Path, str], None]


def texture(rng: np.random.Generator, light: float = 0.0) -> np.ndarray:
    """Rough grey-brown; each image has light of its own, with a deviation of 4 levels."""
    values = rng.normal(130 + light + 4 * rng.normal(), 15, (48, 48, 1)) + np.array([4, 0, -4])
    return np.clip(values, 0, 255).astype(np.uint8)


def as_png(image: Image.Image, path: Path, group: str) -> None:
    image.save(path.with_suffix(".png"))


def audit_of(
    root: Path,
    *,
    light: dict[str, float] | None = None,
    save: Save = as_png,
    counts: dict[str, int] | None = None,
    kinds: Callable[[int, str], str] = lambda i, group: group,
    draw: Callable[[np.ndarray, str], None] = lambda image, group: None,
    part: str = "",
) -> ShortcutAudit:
    """The audit of a set written below `root`: other light for some groups, other files, other contents."""
    rng, records = np.random.default_rng(0), []
    for group, count in (counts or GROUPS).items():
        (root / group).mkdir(parents=True)
        for i in range(count):
            image = texture(rng, (light or {}).get(group, 0.0))
            draw(image, group)
            save(Image.fromarray(image), root / group / f"{i:03}", group)
        for i, path in enumerate(sorted((root / group).iterdir())):
            split, kind = kinds(i, group).split("/")
            name = path.relative_to(root).as_posix()
            records.append(Record(root, name, "train" if split == "train" else "test", kind, group=part))
    looks = [
        appearance(r.name, read_header(r.path), np.asarray(Image.open(r.path).convert("RGB"))) for r in records
    ]
    return audit_shortcuts(records, looks)


def level(audit: ShortcutAudit, question: str, name: str) -> str:
    return next(row.level for row in audit.rows if (row.question, row.property) == (question, name))


def test_a_set_without_shortcuts_is_fine_and_shows_no_images(tmp_path: Path) -> None:
    audit = audit_of(tmp_path)
    assert (audit.verdict, audit.examples, audit.missing) == (FINE, (), ())
    assert {row.level for row in audit.rows} == {FINE}
    assert "a light meter tells good test from training images with AUROC 0." in audit.sentence


def test_shuffled_labels_are_fine_although_half_of_the_images_have_other_light(tmp_path: Path) -> None:
    groups = list(GROUPS)
    order = np.random.default_rng(5).permutation(1000)
    audit = audit_of(
        tmp_path,
        light={"test/scratch": 40},
        kinds=lambda i, group: groups[order[7 * i + groups.index(group)] % 3],
    )
    assert audit.verdict == FINE


def test_good_test_images_in_other_light_are_found_in_both_questions(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, light={"test/good": -25})
    assert audit.verdict == LITTLE
    assert level(audit, SHIFT, "brightness") == level(audit, SHORTCUT, "brightness") == LITTLE
    assert "the good test images were taken otherwise than the training images" in audit.says
    assert len(audit.examples) == 3
    assert {name.name.rpartition("/")[0] for name in audit.examples} == set(GROUPS)


def test_defective_images_in_other_light_leave_the_good_ones_alone(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, light={"test/scratch": 25})
    assert audit.verdict == LITTLE
    assert level(audit, SHORTCUT, "brightness") == LITTLE
    assert {row.level for row in audit.rows if row.question == SHIFT} == {FINE}
    row = next(row for row in audit.rows if (row.question, row.property) == (SHORTCUT, "brightness"))
    assert row.first == pytest.approx(130, abs=4)
    assert row.second == pytest.approx(155, abs=4)


def test_an_auroc_is_the_share_of_pairs_in_order_and_medians_are_those_of_the_images(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, light={"test/scratch": 6})
    row = next(row for row in audit.rows if (row.question, row.property) == (SHORTCUT, "brightness"))
    good, bad = (
        [meter(np.asarray(Image.open(path)))["brightness"] for path in sorted((tmp_path / group).iterdir())]
        for group in ("test/good", "test/scratch")
    )
    assert row.auroc == pytest.approx(np.mean([a > b for a in bad for b in good]))
    assert (row.first, row.second) == pytest.approx((np.median(good), np.median(bad)))


def test_another_jpeg_quality_is_found(tmp_path: Path) -> None:
    def save(image: Image.Image, path: Path, group: str) -> None:
        image.save(path.with_suffix(".jpg"), quality=60 if group == "test/scratch" else 95)

    audit = audit_of(tmp_path, save=save)
    assert audit.verdict == LITTLE
    assert level(audit, SHORTCUT, "JPEG quantisation") == LITTLE


def test_another_camera_is_a_hint_and_no_more(tmp_path: Path) -> None:
    def save(image: Image.Image, path: Path, group: str) -> None:
        exif = Image.Exif()
        exif[0x0110] = "scrap bin" if group == "test/scratch" else "line 3"
        image.save(path.with_suffix(".jpg"), exif=exif, quality=95)

    audit = audit_of(tmp_path, save=save)
    assert audit.verdict == LOOK
    assert "camera alone tells defective from good test images" in audit.says
    assert {level(audit, SHORTCUT, name) for name in ("brightness", "all together")} == {FINE}


@pytest.mark.parametrize(("group", "verdict"), [("test/scratch", LOOK), ("test", FINE)])
def test_defects_of_another_day_are_a_hint_and_a_later_test_is_none(
    group: str, verdict: str, tmp_path: Path
) -> None:
    def save(image: Image.Image, path: Path, own: str) -> None:
        exif = Image.Exif()
        day, second = 2 if own.startswith(group) else 1, int(path.name) % 60
        exif[0x0132] = f"2026:01:{day:02} 10:00:{second:02}"
        image.save(path.with_suffix(".jpg"), exif=exif, quality=95)

    assert audit_of(tmp_path, save=save).verdict == verdict


def test_names_that_say_the_label_are_no_hint(tmp_path: Path) -> None:
    def save(image: Image.Image, path: Path, group: str) -> None:
        image.save(path.with_name(group.replace("/", "_") + path.name + ".png"))

    audit = audit_of(tmp_path, save=save)
    assert audit.verdict == FINE
    named = [row for row in audit.rows if row.property == "name pattern"]
    assert [row.auroc for row in named] == [1.0, 1.0]


def test_a_plain_defect_in_one_place_is_no_other_light(tmp_path: Path) -> None:
    def draw(image: np.ndarray, group: str) -> None:
        if group == "test/scratch":
            image[3:13, 3:13] = 0

    assert audit_of(tmp_path, draw=draw).verdict == FINE


def test_groups_do_not_change_what_is_found(tmp_path: Path) -> None:
    assert audit_of(tmp_path, light={"test/good": -25}, part="all of one part").verdict == LITTLE


@pytest.mark.parametrize(
    ("counts", "questions"),
    [
        ({"train/good": 30, "test/good": 30}, {SHIFT}),
        ({"train/good": 9, "test/good": 30, "test/scratch": 30}, {SHORTCUT}),
        ({"train/good": 30, "test/good": 30, "test/scratch": 9}, {SHIFT}),
    ],
)
def test_a_question_for_which_there_are_too_few_images_is_left_out_and_says_so(
    counts: dict[str, int], questions: set[str], tmp_path: Path
) -> None:
    audit = audit_of(tmp_path, counts=counts)
    assert {row.question for row in audit.rows} == questions
    (why,) = audit.missing
    assert "10 are needed" in why
    assert why in "\n".join(audit.lines())


@pytest.mark.parametrize("counts", [{"train/good": 30}, {"train/good": 30, "test/good": 9, "test/scratch": 30}])
def test_without_good_test_images_nothing_can_be_said(counts: dict[str, int], tmp_path: Path) -> None:
    audit = audit_of(tmp_path, counts=counts)
    assert (audit.verdict, audit.rows) == (CANNOT_SAY, ())
    assert "too few images to judge the split by" in audit.says


def test_images_that_do_not_differ_at_all_are_fine(tmp_path: Path) -> None:
    def draw(image: np.ndarray, group: str) -> None:
        image[:] = 77

    audit = audit_of(tmp_path, draw=draw)
    assert (audit.verdict, audit.rows) == (FINE, ())


def test_ten_images_that_could_hide_anything_are_not_called_sure(tmp_path: Path) -> None:
    audit = audit_of(
        tmp_path, light={"test/scratch": 9}, counts={"train/good": 30, "test/good": 10, "test/scratch": 10}
    )
    assert audit.verdict == FINE
    assert "too few images to be sure" in audit.says


def test_the_name_pattern_knows_no_numbers() -> None:
    assert name_pattern("a/b12/cam2_0017.png") == "cam#_#.png"
