"""MLflow's user interface on real runs, looked at with a browser: what a stranger sees of them.

    pip install "anomaly-ft[demo,docs]"           # and a Chromium: apt install chromium
    python benchmarks/ui_tour.py --output tour    # runs (made once), screenshots, and a check of each page

Two data sets (ELPV mono and poly, 60 normal training images each) x three settings x two seeds, the seeds as
nested children of a parent run. Fails when a page lacks a text or a chart that it should show.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.notes import experiment_tags
from anomaly_ft.recipe_file import read_recipe
from anomaly_ft.run import train
from anomaly_ft.setup import prepare
from anomaly_ft.store import first_page, store_of
from anomaly_ft.terminal import Terminal
from anomaly_ft.viewer import serve

EXPERIMENT = "solar cells"
SETTINGS = {
    "default": [],
    "learning rate x 10": ["optimizer.lr=1e-3"],
    "induced, pooled": [
        "gaussian.final=induced", "gaussian.score=pooled", "optimizer.lr=3e-4", "optimizer.batch_size=4"
    ],
}  # fmt: skip
RECIPE = """
name: {name}
seed: {seed}
data: {{root: "demo:{dataset}", manifest: "{manifest}", image_size: 64, watch_share: 0.3}}
encoder: {{name: tf_efficientnet_lite0, weights: package}}
gaussian: {{grid: 4}}
validation: {{augmentations: [cutmix, cutpaste, scar]}}
schedule: {{max_epochs: {epochs}}}
optimizer: {{batch_size: 8}}
runtime: {{threads: {threads}}}
tracking: {{experiment: {experiment}}}
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


def subset(dataset: str, folder: Path) -> Path:
    """A manifest of 60 normal images to train with, 20 normal and 30 anomalous ones to test with."""
    rows = []
    wanted = {("train", False): 60, ("test", False): 20, ("test", True): 30}
    records = read_root(f"demo:{dataset}").records
    normals = [record for record in records if not record.anomalous]
    for i, record in enumerate([*normals, *(record for record in records if record.anomalous)]):
        split = "train" if not record.anomalous and i < 60 else "test"
        if wanted[split, record.anomalous]:
            wanted[split, record.anomalous] -= 1
            rows.append({"image_path": record.name, "label_index": int(record.anomalous), "split": split})
    path = folder / f"{dataset}.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def make_runs(folder: Path, *, epochs: int, threads: int, seeds: int) -> None:
    """All runs; those of one data set and setting are children of a run of their own."""
    from mlflow.entities import RunTag
    from mlflow.tracking import MlflowClient

    terminal = Terminal()
    for dataset in ("elpv-mono", "elpv-poly"):
        manifest = subset(dataset, folder)
        for setting, overrides in SETTINGS.items():
            summaries = []
            for seed in range(seeds):
                name = f"{dataset}-{setting}-seed-{seed}".replace(" ", "-").replace(",", "")
                recipe = folder / "recipe.yaml"
                recipe.write_text(
                    RECIPE.format(
                        name=name, seed=seed, dataset=dataset, manifest=manifest, epochs=epochs,
                        threads=threads, experiment=EXPERIMENT,
                    )
                )  # fmt: skip
                summaries.append(train(prepare(read_recipe(recipe, overrides), terminal), folder / "runs"))
            client = MlflowClient(store_of(folder / "runs"))
            first = client.get_run(summaries[0]["mlflow_run_id"])
            parent = client.create_run(first.info.experiment_id, run_name=f"{dataset}: {setting}").info.run_id
            for key in ("test/image_auroc", "frozen/image_auroc", "gain/image_auroc", "gain/vicinal_auroc"):
                values = [client.get_run(s["mlflow_run_id"]).data.metrics[key] for s in summaries]
                client.log_metric(parent, key, sum(values) / len(values))
            client.log_batch(parent, tags=[RunTag("verdict", f"mean of {seeds} seeds")])
            client.set_terminated(parent)
            for summary in summaries:
                client.set_tag(summary["mlflow_run_id"], "mlflow.parentRunId", parent)


def pages(store: str) -> Iterator[Page]:
    """The tour."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    assert experiment.tags.items() >= experiment_tags().items()
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    hot = [run for run in children if "induced" in run.info.run_name]
    fine = [run for run in children if "default" in run.info.run_name]
    shown, base = hot[0], f"/#/experiments/{experiment.experiment_id}"
    table = first_page(store)
    yield Page("runs", table, ("verdict", "gain/image_auroc", "elpv-mono: default", "mean of"))
    verdicts = tuple(dict.fromkeys(run.data.tags["verdict"] for run in children))
    yield Page("children", table, ("mean of", *verdicts), 1100, expand=True)
    charts = ("Did it forget? Step 0 is the pretrained encoder", "val/vicinal_auroc", "gain/image_auroc")
    yield Page("charts", table + "&compareRunsMode=CHART", ("elpv-mono: default", *charts), 1150, expand=True)
    note = ("Description", "image AUROC (pooled score)", "elpv-")
    yield Page("run", f"{base}/runs/{shown.info.run_id}?workflowType=machine_learning", note)
    curves = ("vicinal_auroc",)
    yield Page("curves", f"{base}/runs/{shown.info.run_id}/model-metrics?workflowType=machine_learning", curves)
    files = ("report.html", "encoder", "images", "forgetting.png")
    artifacts = f"{base}/runs/{shown.info.run_id}/artifacts"
    yield Page("artifacts", f"{artifacts}?workflowType=machine_learning", files)
    yield Page("figure", f"{artifacts}/forgetting.png?workflowType=machine_learning", ("forgetting.png",))
    ids = json.dumps([fine[0].info.run_id, shown.info.run_id]).replace(" ", "")
    here = json.dumps([experiment.experiment_id])
    compared = ("Comparing 2 Runs", "optimizer.lr", "0.0003", "Show diff only")
    yield Page("compare", f"/#/compare-runs?runs={ids}&experiments={here}", compared, 1500)


def look(address: str, tour: Iterator[Page], folder: Path, chromium: str) -> list[str]:
    """Screenshots of every page; returns what is missing on them."""
    from playwright.sync_api import Error, sync_playwright

    missing = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--headless"]
        )
        window = browser.new_page(viewport=WIDE)
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
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    found = shutil.which("chromium") or shutil.which("google-chrome")
    parser.add_argument("--chromium", default=found, help="Path of the browser.")
    options: Any = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    store = store_of(options.output / "runs")
    if not (options.output / "runs" / "mlflow.db").exists():
        make_runs(options.output, epochs=options.epochs, threads=options.threads, seeds=options.seeds)
    with serve(store, host="127.0.0.1", port=5700) as address:
        missing = look(address, pages(store), options.output, options.chromium)
    sys.exit("missing:\n  " + "\n  ".join(missing) if missing else 0)


if __name__ == "__main__":
    main()
