"""`anomaly-ft ui`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import store_options


@click.command()
@store_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=5000, show_default=True, help="The next free one if it is taken.")
@click.option("--open/--no-open", "browse", default=True, help="Open a browser where there is one.")
def ui(output: Path, store: str | None, host: str, port: int, browse: bool) -> None:
    """Compare runs in MLflow's user interface.

    Starts MLflow on the store that train logs to and shows which encoder forgot, when, and what was
    gained. Where the store is a server already, its address is opened and nothing is started.

    \b
    Examples:
      anomaly-ft ui
      anomaly-ft ui --output /data/runs --no-open
      anomaly-ft ui --store http://mlflow:5000
    """
    import webbrowser
    from contextlib import nullcontext

    from anomaly_ft.system.addresses import without_password
    from anomaly_ft.tracking.store import choose_store, first_page
    from anomaly_ft.tracking.ui_server import serve

    uri = choose_store(store, output)
    served = uri.startswith(("http://", "https://"))
    if not served:
        click.echo(f"starting MLflow on {without_password(uri)} (takes a while)", err=True)
    with (
        nullcontext(without_password(uri).rstrip("/"))
        if served
        else serve(uri, host=host, port=port) as address
    ):
        page = address + first_page(uri)
        click.echo(page)
        if browse:
            webbrowser.open(page)
        if not served:
            click.echo("Ctrl-C ends it", err=True)
            wait_for_the_end()


def wait_for_the_end() -> None:
    """Wait for Ctrl-C or SIGTERM, neither of which is an error here."""
    import signal
    import threading

    end = threading.Event()
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, lambda *_: end.set())
    end.wait()
