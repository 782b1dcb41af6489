"""`anomaly-ft export`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import echo_json, quieten_libraries

FORMATS = ["timm", "onnx", "pt2", "openvino", "encoder-onnx", "encoder-pt2"]  # importing them takes seconds


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    required=True,
    help="timm: the encoder as timm and a model hub expect it; onnx, pt2, openvino: the whole detector; "
    "encoder-…: the bare encoder with its levels.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A folder, new or empty.")
@click.option("--uint8", "raw", is_flag=True, help="Graphs take uint8 (n, h, w, 3) and normalise inside.")
@click.option(
    "--images",
    multiple=True,
    help="File, folder or pattern to compare on; may be repeated. Unset: the test images of the run.",
)
@click.option(
    "--count",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="So many of them, spread evenly; 0: all.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=1e-3,
    show_default=True,
    help="Relative difference that is allowed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print parity.json as the last line of stdout.")
def export(
    run: Path,
    form: str,
    output: Path,
    raw: bool,
    images: tuple[str, ...],
    count: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Write the encoder or the whole detector of a finished RUN in a format that others load.

    Every export is compared with the detector on real images before it is kept: scores, maps, decisions
    (parity.json). One that does not agree is deleted, and the command exits with 6. The README.md beside
    it has the shortest program that uses it without anomaly_ft.

    \b
    Examples:
      anomaly-ft export runs/bottle-001 --format timm --output bottle-encoder
      anomaly-ft export runs/bottle-001 --format onnx --output bottle-onnx --uint8
      anomaly-ft export runs/bottle-001 --format pt2 --output bottle-pt2 --images new/ --count 0
    """
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.export import Comparison
    from anomaly_ft.run.export import export as write

    quieten_libraries()
    terminal = Terminal()
    comparison = Comparison(images, count, tolerance)
    parity = write(run, form, output, terminal, raw=raw, comparison=comparison)
    terminal.say(f"{output}: {parity}")
    if as_json:
        echo_json(output / "parity.json")
