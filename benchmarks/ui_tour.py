"""MLflow's user interface on real runs, looked at with a browser: what a stranger sees of them.

    pip install -e ".[demo,docs]"                 # and a Chromium: apt install chromium
    python benchmarks/ui_tour.py --output tour    # runs not finished yet, screenshots, and a check of each page

Two data sets (ELPV mono and poly, 60 normal training images each) x three settings, one of which forgets, x two
seeds as nested children of a sweep. Without playwright or a browser the runs are made and the pages named, and
the exit code is 3. Fails when a page lacks a text or a chart that it should show.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.tracking import MlflowClient
from PIL import Image
from sets import MISSING

from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.sweep import read_sweep
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.sweep import run_sweep
from anomaly_ft.tracking.logged_models import Place, log_detector
from anomaly_ft.tracking.model_registry import promote_model
from anomaly_ft.tracking.store import first_page, store_of
from anomaly_ft.tracking.ui_server import serve

EXPERIMENT, MODEL = "solar cells", "solar-cells-mono"
SETTINGS = {
    "default": {},
    "late": {"encoder.train_blocks": ["blocks.5", "blocks.6", "conv_head", "bn2"]},
    "too-fast": {
        "optimizer.lr": 1e-3,
        "expert.gaussian.statistics": "pretrained",
        "expert.gaussian.score": "pooled",
    },
}
RECIPE = """
data: {{root: "{root}", manifest: "{manifest}", image_size: 64}}
encoder: {{name: tf_efficientnet_lite0, weights: package}}
validation: {{augmentations: [cutmix, cutpaste, scar]}}
schedule: {{max_epochs: {epochs}}}
optimizer: {{batch_size: 8}}
tracking: {{experiment: {experiment}}}
expert:
  data: {{val_share: 0.3}}
  gaussian: {{grid: 4}}
  runtime: {{threads: {threads}}}
"""
WIDE = {"width": 1500, "height": 900}
PATIENCE = 60_000  # milliseconds for a text to appear


@dataclass(frozen=True)
class Page:
    """An address below the server's, and texts that must be on it."""

    name: str
    address: str
    texts: tuple[str, ...]
    height: int = 900
    expand: bool = False  # open all parents first


def subset(root: str, path: Path) -> Path:
    """A manifest of 60 normal images to train with, 20 normal and 30 anomalous ones to test with."""
    rows = []
    wanted = {("train", False): 60, ("test", False): 20, ("test", True): 30}
    records = read_root(root).records
    normals = [record for record in records if not record.anomalous]
    for i, record in enumerate([*normals, *(record for record in records if record.anomalous)]):
        split = "train" if not record.anomalous and i < 60 else "test"
        if wanted[split, record.anomalous]:
            wanted[split, record.anomalous] -= 1
            rows.append({"image_path": record.name, "label_index": int(record.anomalous), "split": split})
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def make_runs(options: Any, store: str) -> None:
    """A sweep for each data set and setting, whose runs differ in their seed alone; what is there is not made
    again."""
    folder = options.output
    changed = SETTINGS | {"late": {"encoder.train_blocks": options.late.split(",")}}
    for dataset in options.sets.split(","):
        root = options.data.format(dataset)
        recipe = folder / f"{dataset}.yaml"
        recipe.write_text(
            RECIPE.format(
                root=root, manifest=subset(root, folder / f"{dataset}.csv"), epochs=options.epochs,
                threads=options.threads, experiment=EXPERIMENT,
            )
        )  # fmt: skip
        recipe.write_text(read_recipe(recipe, options.set).to_yaml())
        for setting, changes in changed.items():
            file = folder / "sweep.yaml"
            about = {"name": f"{dataset}-{setting}", "recipe": recipe.name, "seeds": list(range(options.seeds))}
            file.write_text(json.dumps(about | {"settings": {f"{dataset[5:]}-{setting}": changes}}))
            done = run_sweep(read_sweep(file), folder / "runs", Terminal())
            if done["failed"]:
                sys.exit(f"{done['failed']} runs failed, see {done['folder']}/results/errors")
    if MlflowClient(store).search_registered_models(f"name = '{MODEL}'"):
        return
    chosen = folder / "runs" / "elpv-mono-default" / "mono-default-seed0-001" / "summary.json"
    run_id = json.loads(chosen.read_text(encoding="utf-8"))["mlflow_run_id"]
    model_id = log_detector(Place(chosen.parent, store, run_id), {})
    promote_model(store, model_id, name=MODEL, alias="champion")


def pages(store: str) -> Iterator[Page]:
    """The tour."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    hot = [run for run in children if run.data.tags.get("verdict", "").startswith("forgot")]
    fine = [run for run in children if run.info.run_name.startswith("mono-default")]
    shown, base = (hot or children)[0], f"/#/experiments/{experiment.experiment_id}"
    table = first_page(store)
    verdicts = tuple(dict.fromkeys(run.data.tags["verdict"] for run in runs if "verdict" in run.data.tags))
    columns = ("elpv-mono-default", "verdict", "gain/image_auroc", "2 of 2 forgot")
    yield Page("runs", table, columns)
    yield Page("children", table, ("elpv-mono-default", shown.info.run_name, *verdicts), 1100, expand=True)
    charts = ("Did it forget? Step 0 is the pretrained encoder", "val/vicinal_auroc", "gain/image_auroc")
    yield Page("charts", table + "&compareRunsMode=CHART", ("elpv-mono-default", *charts), 1150)
    note = ("Description", "image AUROC (pooled score)", "elpv-")
    yield Page("run", f"{base}/runs/{shown.info.run_id}?workflowType=machine_learning", note)
    curves = ("vicinal_auroc",)
    yield Page("curves", f"{base}/runs/{shown.info.run_id}/model-metrics?workflowType=machine_learning", curves)
    files = ("report.html", "images", "forgetting.png")
    artifacts = f"{base}/runs/{shown.info.run_id}/artifacts"
    yield Page("artifacts", f"{artifacts}?workflowType=machine_learning", files)
    yield Page("figure", f"{artifacts}/forgetting.png?workflowType=machine_learning", ("forgetting.png",))
    ids = json.dumps([fine[0].info.run_id, shown.info.run_id]).replace(" ", "")
    here = json.dumps([experiment.experiment_id])
    compared = ("Comparing 2 Runs", "optimizer.lr", "0.0003", "Show diff only")
    yield Page("compare", f"/#/compare-runs?runs={ids}&experiments={here}", compared, 1500)
    yield Page("model", f"/#/models/{MODEL}", (MODEL, "Version 1", "champion"))
    yield Page("version", f"/#/models/{MODEL}/versions/1", ("Version 1", "mono-default-seed0-001"))


def look(address: str, tour: Iterator[Page], folder: Path, chromium: str) -> list[str]:
    """Screenshots of every page; returns what is missing on them."""
    from playwright.sync_api import Error, sync_playwright

    missing = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--headless"]
        )
        window = browser.new_page(viewport=WIDE)
        window.set_default_navigation_timeout(5 * PATIENCE)
        window.goto(address)
        window.evaluate("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
        window.evaluate("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        for page in tour:
            window.set_viewport_size(WIDE | {"height": page.height})
            window.goto("about:blank")
            window.goto(address + page.address)
            if page.expand:
                window.get_by_text(page.texts[0]).first.wait_for(timeout=PATIENCE)
                buttons = window.locator(".ag-row [col-id*='Run Name'] button")
                for i in range(buttons.count()):  # children have none
                    buttons.nth(i).click()
            for text in page.texts:
                try:
                    window.get_by_text(text).first.wait_for(timeout=PATIENCE, state="attached")
                except Error:
                    missing.append(f"{page.name}: {text}")
            window.wait_for_timeout(4000)  # charts draw themselves after their headings
            picture = folder / f"mlflow-{page.name}.png"
            window.screenshot(path=picture)
            reduced = Image.open(picture).convert("RGB").quantize(64)
            reduced.save(picture, optimize=True)
            print(page.name, window.url, f"{picture.stat().st_size / 1024:.0f} KiB", flush=True)
        browser.close()
    return missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("tour"))
    parser.add_argument("--data", default="demo:{}", help="data root of a set, whose name stands for {}")
    parser.add_argument("--sets", default="elpv-mono,elpv-poly", help="elpv-mono among them")
    parser.add_argument("--store", default="", help="MLflow database (default: in the output folder)")
    late = ",".join(SETTINGS["late"]["encoder.train_blocks"])
    parser.add_argument("--late", default=late, help="blocks that the setting late trains")
    parser.add_argument("-s", dest="set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    found = shutil.which("chromium") or shutil.which("google-chrome")
    parser.add_argument("--chromium", default=found, help="Path of the browser.")
    options: Any = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    store = options.store or store_of(options.output / "runs")
    options.set.append(f"tracking.uri={store}")
    browser = options.chromium if find_spec("playwright") else None
    if not browser:
        print("left out: the pages are not looked at, which takes playwright and a Chromium", file=sys.stderr)
    make_runs(options, store)
    if not browser:
        for page in pages(store):
            print(page.name, page.address)
        sys.exit(MISSING)
    with serve(store, host="127.0.0.1", port=5700) as address:
        missing = look(address, pages(store), options.output, options.chromium)
    sys.exit("missing:\n  " + "\n  ".join(missing) if missing else 0)


if __name__ == "__main__":
    main()
