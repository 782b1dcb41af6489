"""`anomaly-ft doctor`."""

import json
import sys
from pathlib import Path

import click

from anomaly_ft.cli.options import store_options

SIGNS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command()
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def doctor(output: Path, store: str | None, as_json: bool) -> None:
    """Check what a run needs: packages, devices, precision, weights, disk, the MLflow store.

    Exits with 2 when something would make a run fail. Put what it prints into a bug report.

    \b
    Examples:
      anomaly-ft doctor
      anomaly-ft doctor --store http://mlflow:5000
      anomaly-ft doctor --json
    """
    from dataclasses import asdict

    from anomaly_ft.cli.diagnose import diagnose
    from anomaly_ft.tracking.store import choose_store

    findings = []
    for finding in diagnose(choose_store(store, output), output):
        findings.append(finding)
        if not as_json:
            click.echo(f"{SIGNS[finding.state]}  {finding.topic:<14} {finding.says}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state == "bad" for finding in findings):
        sys.exit(2)
