"""The `anomaly-ft` command; its parts are in `cli/`, a file each, named here in the order of the help.

Exit codes: 0 done, 1 a bug, 2 something the user can mend, 3 an anomaly was found and that is to count
as failure, 4 training diverged, 5 runs of a sweep failed, 6 an export does not agree with its detector,
7 an image got no decision and that is to count as failure, 130 interrupted; see `options.EXIT_CODES`.
"""

import os
import sys
from contextlib import suppress
from typing import Any

import click

from anomaly_ft.cli.analyse import analyse
from anomaly_ft.cli.compare import compare
from anomaly_ft.cli.data import data
from anomaly_ft.cli.delete import delete
from anomaly_ft.cli.diagnose import versions
from anomaly_ft.cli.doctor import doctor
from anomaly_ft.cli.encoders import encoders
from anomaly_ft.cli.evaluate import evaluate
from anomaly_ft.cli.export import export
from anomaly_ft.cli.init import init
from anomaly_ft.cli.options import DISAGREES, INTERRUPTED
from anomaly_ft.cli.predict import predict
from anomaly_ft.cli.promote import promote
from anomaly_ft.cli.sweep import sweep
from anomaly_ft.cli.sync import sync
from anomaly_ft.cli.threshold import threshold
from anomaly_ft.cli.train import train
from anomaly_ft.cli.ui import ui
from anomaly_ft.cli.update import update
from anomaly_ft.errors import AnomalyFtError, ParityError
from anomaly_ft.system.addresses import without_password
from anomaly_ft.system.offline import no_network, silence_libraries
from anomaly_ft.system.signals import ended_by_signals


class _Group(click.Group):
    """Words the errors a user can mend, without a traceback, and lists commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            silence_libraries()
            with ended_by_signals():
                return super().invoke(ctx)
        except AnomalyFtError as error:
            click.echo(without_password(f"Error: {error}"), err=True)
            ctx.exit(DISAGREES if isinstance(error, ParityError) else 2)
        except OSError as error:
            if error.errno is None or isinstance(error, BrokenPipeError):  # of a library; of a reader that left
                raise
            _let_go_of_stdout()
            click.echo(f"Error: {error}; what was complete before is still there", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "Interrupted; what was written is kept (of train: in the output folder's .partial folder; the "
                "same command with --resume goes on)",
                err=True,
            )
            ctx.exit(INTERRUPTED)


def _let_go_of_stdout() -> None:
    """Detach stdout, so that what could not be written is not tried again at exit."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_versions(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    del option
    if wanted and not ctx.resilient_parsing:
        for name, number in versions().items():
            click.echo(f"{name} {number}")
        ctx.exit()


def _offline(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    del option
    if wanted and not ctx.resilient_parsing:
        ctx.with_resource(no_network())


# a command keeps the help option of its first use, so each one says its names itself and not only the group
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Group, context_settings=SETTINGS)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_versions,
    help="Show the versions of anomaly-ft and what it uses, and exit.",
)  # fmt: skip
def main() -> None:
    """Fine-tune a pretrained image encoder on images of good parts, and go back when it forgets.

    \b
    Examples:
      anomaly-ft train recipes/quickstart.yaml
      anomaly-ft predict runs/quickstart-001 new/*.png
    """


for command in (
    init,
    train,
    sweep,
    data,
    evaluate,
    predict,
    update,
    threshold,
    export,
    promote,
    compare,
    analyse,
    sync,
    delete,
    ui,
    doctor,
    encoders,
):
    command.params.append(
        click.Option(
            ["--offline"], is_flag=True, is_eager=True, expose_value=False, callback=_offline,
            envvar="ANOMALY_FT_OFFLINE", help="Reach nothing beyond this machine: no hub, no MLflow server.",
        )
    )  # fmt: skip
    command.context_settings = SETTINGS
    main.add_command(command)
