"""The page that people read: complete, self-contained, escaped, and fit to be opened in a browser."""

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.assess import assess
from anomaly_ft.evaluation.chance import learn_chance
from anomaly_ft.evaluation.pictures import ColourScale, outlined, overlay, scale_of, shrunk
from anomaly_ft.evaluation.report import (
    HELD_OUT,
    ReportData,
    interval,
    number,
    percent,
    score_kinds,
    write_report,
)
from anomaly_ft.evaluation.what_if import SEVERAL, UNCHANGED
from anomaly_ft.evaluation.working_points import conformal
from anomaly_ft.model.outputs import Labels, Outputs, Predictions

LABELS = Labels(
    scores={"fused": "a <u>sum</u>"}, maps={"dense": "where it is odd", "contribution": "what adds up to it"}
)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a browser would fetch, the text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_of_a_run_needs_no_other_file(small_run: Path) -> None:
    page = read(small_run / "report.html")
    assert page.tags.isdisjoint({"script", "link", "iframe"})
    assert len(page.addresses) > 20
    for address in page.addresses:
        kind, _, data = address.partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        Image.open(io.BytesIO(base64.b64decode(data, validate=True))).load()
    assert (small_run / "report.html").stat().st_size < 5e6
    assert "url(" not in (small_run / "report.html").read_text()


def test_the_page_tells_the_whole_story(small_run: Path) -> None:
    page, summary = read(small_run / "report.html"), json.loads((small_run / "summary.json").read_text())
    for heading in (
        "What was used", "Frozen against", "Did the encoder forget?", "Scores and the threshold",
        "Each kind of image", "Most suspicious normal images", "Missed anomalies", "Best maps",
        "Does it look at the defect?", "Trouble with the data", "How to use it", "Recipe",
    ):  # fmt: skip
        assert heading in page.text, heading
    assert f"{summary['test']['image_auroc']:.4f}" in page.text
    assert f"{summary['thresholds']['threshold']:.4f}" in page.text
    assert "max_epochs: 1" in page.text
    assert "anomaly-ft predict small-001" in page.text
    assert not re.search(r"\bNone\b(?!:)|\bnan\b|\{\{|Undefined", page.text)


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no browser on this machine")
    return found


def test_a_browser_shows_the_page_without_complaint(small_run: Path, tmp_path: Path) -> None:
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=1200,3000",
        f"--screenshot={tmp_path / 'page.png'}", (small_run / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shown.shape == (3000, 1200)
    assert (shown.min(axis=1) < 128).mean() > 0.3, "there is something on a third of the rows"


@pytest.fixture
def labelled(tmp_path: Path, make_textures: Callable) -> tuple[list[Record], Predictions]:
    """Three normal and three anomalous images on disk, with a file name that is no harmless text."""
    records = []
    for i, pixels in enumerate(make_textures(6, 40, 0)):
        kind = "good" if i < 3 else "<b>hole</b>"
        path = tmp_path / f"{i} & <script>.png"
        Image.fromarray(pixels).save(path)
        records.append(Record(tmp_path, path.name, "test", kind))
    rng = np.random.default_rng(0)
    scores = {"fused": np.array([0.0, 1.0, 2.0, 0.5, 3.0, 4.0])}
    maps = rng.normal(3, 1, (2, 6, 4, 4)).astype(np.float32)
    return records, Outputs(
        scores, {"dense": maps[0], "contribution": maps[1]}, np.ones((6, 2)), "fused", "dense"
    )


def summary_of(found: dict[str, object], kinds: tuple[int, int]) -> dict[str, object]:
    return {
        "name": "a <i>name</i>",
        "encoder": "encoder",
        "score": "fused",
        "data": {
            "root": "somewhere", "layout": "mvtec", "test_normal": kinds[0], "test_anomalous": kinds[1],
            "skipped": [{"path": "<bad>.png", "why": "no & image"}],
        },
        "thresholds": {
            "threshold": 1.5, "target_fpr": 0.01, "guaranteed_fpr": 0.05, "images": 19, "confidence": None,
            "found_share": None, "decided_by": "",
        },
        "versions": {"anomaly_ft": "0"},
        "test": None,
        **found,
    }  # fmt: skip


def test_what_files_are_called_cannot_change_the_page(
    labelled: tuple[list[Record], Predictions], tmp_path: Path
) -> None:
    found = assess(*labelled, conformal(np.linspace(0, 1.5, 19), 0.01), Decoder(32))
    write_report(
        tmp_path / "r.html",
        summary_of(found.summary(), (3, 3)),
        ReportData("a: <b>", found, 1.5, np.empty(0), LABELS),
    )
    page = read(tmp_path / "r.html")
    assert page.tags.isdisjoint({"script", "i"})
    assert "3 & <script>.png" in page.text
    assert "<b>hole</b>" in page.text
    assert "<bad>.png" in page.text
    assert "Missed anomalies (1, lowest scores first)" in page.text


def test_the_image_whose_score_alone_is_the_threshold_is_named_with_its_picture(
    labelled: tuple[list[Record], Predictions], tmp_path: Path
) -> None:
    found = assess(*labelled, conformal(np.linspace(0, 1.5, 19), 0.01), Decoder(32))
    about, first = summary_of(found.summary(), (3, 3)), labelled[0][0]
    point = {**about["thresholds"], "decided_by": first.name}  # type: ignore[dict-item]
    data = ReportData("", found, 1.5, np.empty(0), LABELS, root=first.root, decoder=Decoder(32))
    pictures = {}
    for decided_by in ("", first.name):
        shown = about | {"thresholds": point | {"decided_by": decided_by}}
        write_report(tmp_path / "r.html", shown, data)
        page = read(tmp_path / "r.html")
        pictures[decided_by] = len(page.addresses)
        said = f"One image alone decides where the threshold lies: {first.name}" in page.text
        assert said == bool(decided_by)
    assert pictures[first.name] == pictures[""] + 1


@pytest.mark.parametrize(
    ("mixed", "said"),
    [
        ({}, "the encoder of epoch 1 is kept"),
        ({"0.5": 0.8, "1.0": 0.9}, "the encoder of epoch 1 is kept"),
        (
            {"1.0": 0.9, "0.5": 0.8},
            "a mixture of 50.0 % of the weights of epoch 1 and the pretrained ones is kept",
        ),
    ],
)
def test_the_report_says_how_much_of_the_kept_epoch_is_in_the_encoder(
    mixed: dict[str, float], said: str, tmp_path: Path
) -> None:
    trained = {"best_epoch": 1, "epochs": 2, "stop_reason": "forgetting", "mixed": mixed}
    data = ReportData("", None, 1.5, np.empty(0), LABELS)
    write_report(tmp_path / "r.html", summary_of(trained, (0, 0)), data)
    assert said in " ".join(read(tmp_path / "r.html").text.split())


@pytest.mark.parametrize("strengths", [{"focus": 1.0}, {}])
def test_the_report_says_that_changes_come_one_to_three_at_once(
    strengths: dict[str, float], tmp_path: Path
) -> None:
    numbers = {"auroc": None, "rejected": 0.1, "frozen_auroc": None, "frozen_rejected": 0.2, "strength": None}
    rows = [{"change": UNCHANGED, "factor": 0, **numbers}, {"change": SEVERAL, "factor": 1, **numbers}]
    varied = {"variation": {"on": "val", "strengths": strengths, "rows": rows}}
    data = ReportData("", None, 1.5, np.empty(0), LABELS, what_if=rows)
    write_report(tmp_path / "r.html", summary_of(varied, (0, 0)), data)
    text = " ".join(read(tmp_path / "r.html").text.split())
    assert "one change at a time, then one to three at once" in text
    assert ("drawn for each image as in training" in text) == bool(strengths)


def test_scores_and_maps_are_explained_in_the_detectors_own_words(
    labelled: tuple[list[Record], Predictions], tmp_path: Path
) -> None:
    found = assess(*labelled, conformal(np.linspace(0, 1.5, 19), 0.01), Decoder(32))
    data = ReportData("", found, 1.5, np.empty(0), LABELS)
    write_report(tmp_path / "r.html", summary_of(found.summary(), (3, 3)), data)
    page = read(tmp_path / "r.html")
    assert "fused: a <u>sum</u>; higher = more anomalous" in page.text
    assert (
        "the image, then where it is odd (dense map), then what adds up to it (contribution map)" in page.text
    )
    assert 'alt="contribution map of' in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_regions_that_chance_hardly_makes_are_outlined_in_the_first_map(
    labelled: tuple[list[Record], Predictions], tmp_path: Path
) -> None:
    records, outputs = labelled
    outputs.maps["dense"][3, 1, 1:3] = 100  # a missed one, which is shown
    found = assess(records, outputs, conformal(np.linspace(0, 1.5, 19), 0.01), Decoder(32))
    chance = learn_chance(np.random.default_rng(1).normal(3, 1, (1, 40, 4, 4)))
    pages = []
    for given in (None, chance):
        data = ReportData("", found, 1.5, np.empty(0), LABELS, chance=given)
        write_report(tmp_path / "r.html", summary_of(found.summary(), (3, 3)), data)
        pages.append(read(tmp_path / "r.html"))
    assert ["Blue outlines are regions" in page.text for page in pages] == [False, True]
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    (changed,) = set(pages[1].addresses) - set(pages[0].addresses)
    assert f'"{changed}" alt="dense map of 3 &amp; &lt;script&gt;.png"' in text


def test_the_page_says_how_many_images_each_part_had(small_run: Path) -> None:
    data = json.loads((small_run / "summary.json").read_text())["data"]
    text = read(small_run / "report.html").text
    for part in ("train", "val", "calibration"):
        assert f"{data[part]} {part}" in text


def test_images_that_are_gone_leave_the_numbers(
    labelled: tuple[list[Record], Predictions], tmp_path: Path
) -> None:
    found = assess(*labelled, conformal(np.linspace(0, 1.5, 19), 0.01), Decoder(32))
    for record in labelled[0]:
        record.path.unlink()
    write_report(
        tmp_path / "r.html",
        summary_of(found.summary(), (3, 3)),
        ReportData("", found, 1.5, np.empty(0), LABELS),
    )
    page = read(tmp_path / "r.html")
    assert "Each kind of image" in page.text
    pictures = [address for address in page.addresses if address.startswith("data:image/jpeg")]
    assert len(pictures) == 2, "the two colour scales"


def test_without_a_test_split_the_page_says_what_is_missing(tmp_path: Path) -> None:
    data = ReportData("", None, 1.5, np.linspace(0, 1.5, 19), LABELS)
    write_report(tmp_path / "r.html", summary_of({}, (0, 0)), data)
    page = read(tmp_path / "r.html")
    assert "There were no labelled test images" in page.text
    assert len(page.addresses) == 1


@pytest.mark.parametrize("kinds", ["good", "hole"])
def test_one_kind_of_image_makes_a_page_too(
    kinds: str, labelled: tuple[list[Record], Predictions], tmp_path: Path
) -> None:
    records = [Record(r.root, r.name, "test", kinds) for r in labelled[0]]
    found = assess(records, labelled[1], conformal(np.linspace(0, 1.5, 19), 0.01), Decoder(32))
    write_report(
        tmp_path / "r.html",
        summary_of(found.summary(), (6, 0) if kinds == "good" else (0, 6)),
        ReportData("", found, 1.5, np.empty(0), LABELS),
    )
    assert kinds in read(tmp_path / "r.html").text


def test_kinds_are_listed_with_normal_images_first(labelled: tuple[list[Record], Predictions]) -> None:
    found = assess(*labelled, conformal([1.5], 0.5), Decoder(32))
    assert list(score_kinds(np.ones(2), found)) == [HELD_OUT, "good", "<b>hole</b>"]
    assert list(score_kinds(np.empty(0), None)) == []


def test_numbers_are_worded_alike_everywhere() -> None:
    assert (number(0.98765), number(None), percent(0.0123)) == ("0.9877", "-", "1.2 %")
    assert interval((0.1, 0.25)) == "0.100 to 0.250"
    assert interval((-0.1, 0.25), "+") == "-0.100 to +0.250"
    assert interval(None) == ""


def test_colours_mean_the_same_on_every_map() -> None:
    scale = scale_of(np.stack([np.full((2, 2), 1.0), np.full((2, 2), 9.0)]), np.array([True, False]))
    assert scale.low == 1
    assert scale.high == pytest.approx(8.2)
    image = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(overlay(image, np.full((2, 2), 1.0, np.float32), scale), image)
    shown = [overlay(image, np.full((2, 2), v, np.float32), scale)[0, 0].tolist() for v in (5, 5, 8.2, 50)]
    assert shown[0] == shown[1] != shown[2] == shown[3]
    assert ColourScale(2, 2).position(np.array([1, 2, 3], np.float32)).tolist() == [0, 0, 1]


def test_an_outline_is_the_border_and_lies_inside() -> None:
    image, inside = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), bool)
    inside[5:12, 5:12] = True
    drawn = outlined(image, inside, (1, 2, 3)).any(axis=2)
    assert drawn.sum() == 24
    assert not drawn[6:11, 6:11].any()
    assert not outlined(image, np.ones((20, 20), bool), (1, 2, 3)).any()


def test_pictures_shrink_and_never_grow() -> None:
    assert shrunk(np.zeros((100, 50, 3), np.uint8), 20).shape == (20, 10, 3)
    assert shrunk(np.zeros((10, 5, 3), np.uint8), 20).shape == (10, 5, 3)
