"""`anomaly-ft encoders`."""

import json

import click


@click.command()
@click.option(
    "--time", "measure", is_flag=True, help="Measure milliseconds an image on the CPU, where weights are here."
)
@click.option("--image-size", default=224, show_default=True, help="Side in pixels of the images for --time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def encoders(measure: bool, image_size: int, as_json: bool) -> None:
    """List encoders whose pretrained weights can be had here and now.

    Any timm model is an encoder; listed are those whose weights packages carry, models of the hub that suit,
    and what is in the hub's cache. `name` and `weights` go into a recipe as encoder.name and encoder.weights.

    \b
    Examples:
      anomaly-ft encoders
      anomaly-ft encoders --time --image-size 448
    """
    from dataclasses import asdict

    from anomaly_ft.errors import EncoderError
    from anomaly_ft.model.encoder.available import list_encoders, timed
    from anomaly_ft.run.console import Terminal, show_table

    terminal, choices = Terminal(), list(list_encoders())
    for i, choice in enumerate(terminal.track(choices, "measuring", len(choices), unit="") if measure else ()):
        if choice.here:
            try:
                choices[i] = timed(choice, image_size)
            except EncoderError as cause:
                terminal.say(str(cause))
    if as_json:
        click.echo(json.dumps([asdict(choice) for choice in choices]))
        return
    headings = ["name", "weights", "million parameters", "trained at", "from", "what"]
    rows = [[c.name, c.weights, f"{c.millions:.1f}", f"{c.image_size} px", c.source, c.about] for c in choices]
    if measure:
        headings.insert(4, "ms an image")
        for row, choice in zip(rows, choices, strict=True):
            row.insert(4, "-" if choice.milliseconds is None else f"{choice.milliseconds:.1f}")
    show_table(headings, rows)
