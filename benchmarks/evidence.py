"""Everything that the README claims, in one run that goes on where it was stopped.

    python benchmarks/evidence.py --output results -s expert.runtime.threads=1
    python benchmarks/evidence.py --output results -s expert.runtime.threads=1 --peers venv-anomalib/bin/python
    python benchmarks/evidence.py --output results -s expert.runtime.threads=1 --only-tables \\
        --results docs/evidence.md --readme README.md --figures docs/images

For each set and seed, with the recipe of all benchmarks and nothing chosen for one set: the frozen encoder
with statistics of images as they are, the frozen encoder with those of varied copies too, and the fine-tuned
one, the default. Each has both heads, a Gaussian at each position (`fixed`) and one of all (`free`). The
encoder is trained once, with the head that `gaussian.position: auto` chooses; the other head is fitted to the
encoder that comes of it. Numbers are of the test images as they are and varied as the recipe calls benign:
image AUROC of all scores, good images rejected and defects found at the run's own threshold; of images as
they are, pixel AUROC and AUPRO of the dense map. With seed 0 the chosen head is measured at five strengths of
variation.

With `--peers`, the python of an environment that has anomalib 2.7 (see `beside_anomalib.py`), PaDiM,
PatchCore with a coreset of 1 and of 10 % and STFPM, a student of our encoder, follow: same backbone, images
and machine. One that does not end within `--peer-minutes` for a set's first seed is not tried for the others.

Writes into the folder `evidence.csv`, a row for each detector and head, `growing.csv`, a row for each
strength, and `peers.csv`; what they have is not run again, also with another version or on another machine,
and the tables name all of them. Seed by seed, small sets first. Prints the tables as Markdown and draws
`what-if.png`, the picture of `--figure`; `--results` puts the tables between two comments of a file, `--readme`
a short one. Sets and where they lie: see `sets.py`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pandas as pd
from beside_anomalib import ABSENT, installed
from evidence_figure import draw
from evidence_peers import MODELS, run_peer
from evidence_run import commit, run
from evidence_tables import evidence_tables, put_between_markers, refuse_without_markers, short_table
from measuring import add_rows, read_table
from sets import Cell, grid, grid_options, label_of

from anomaly_ft.run.console import Terminal

SMALL_FIRST = "kolektor,bottle,screw,ballscrew,elpv-mono,elpv-poly,macaroni1,mtd"
RUN = ["set", "seed", "settings"]
PEER = [*RUN, "model"]
FIGURE = "what-if.png"


def run_all(output: Path, cells: list[Cell], label: str, terminal: Terminal) -> None:
    """Measure what the tables lack, and write it down set by set."""
    paths = {name: output / f"{name}.csv" for name in ("growing", "evidence")}  # the last one counts as done
    tables = {name: read_table(path, RUN) for name, path in paths.items()}
    done = set(tables["evidence"][RUN].itertuples(index=False, name=None))
    left, made_by = [cell for cell in cells if (cell.name, cell.seed, label) not in done], commit()
    for place, (name, seed, recipe) in enumerate(left):
        terminal.say(f"{name}, seed {seed}: {len(left) - place} of {len(cells)} sets and seeds are left")
        rows, growing = run(recipe, terminal)
        for kind, new in (("growing", growing), ("evidence", rows)):
            known = {"set": name, "seed": seed, "settings": label, "commit": made_by}
            tables[kind] = add_rows(paths[kind], tables[kind], pd.DataFrame(new).assign(**known), RUN)


def run_peers(output: Path, cells: list[Cell], label: str, python: str, limit: float) -> None:
    """Measure anomalib's models where the table lacks them, those that end soon first."""
    path, terminal = output / "peers.csv", Terminal()
    table, made_by = read_table(path, [*PEER, "outcome"]), commit()
    for title in MODELS:
        for name, seed, recipe in cells:
            same = table[(table[["set", "settings", "model"]] == [name, label, title]).all(axis=1)]
            if seed in set(same["seed"]):
                continue
            terminal.say(f"{title} on {name}, seed {seed}")
            endless = (same["outcome"] != "ended").any()
            row = {"outcome": "not tried"} if endless else run_peer(recipe, title, python, limit)
            known = dict(zip(PEER, (name, seed, label, title), strict=True))
            table = add_rows(path, table, pd.DataFrame([row]).assign(**known, commit=made_by), PEER)


def tell(
    output: Path, names: list[str], label: str, *, places: Mapping[str, Path | None], figure: tuple[str, Path]
) -> None:
    """Print the tables, put them where they go, and draw the picture, from what the folder has."""
    known = {}
    for kind in ("evidence", "growing", "peers"):
        table = read_table(output / f"{kind}.csv", RUN)
        known[kind] = table[table["set"].isin(names) & (table["settings"] == label)]
    if not len(known["evidence"]):
        raise click.ClickException(f"{output} has no rows of {', '.join(names)} with these settings")
    text = evidence_tables(known["evidence"], known["peers"])
    print(text)
    told = {"results": text, "readme": short_table(known["evidence"])}
    for name, path in places.items():
        if path:
            put_between_markers(path, told[name])
    name, folder = figure
    if ((known["growing"]["set"] == name) & (known["growing"]["seed"] == 0)).any():
        draw(known["growing"], name, folder / FIGURE)
    else:
        print(f"\nThere is no picture: {name} was not measured with seed 0.")


@click.command()
@grid_options(sets=SMALL_FIRST, seeds=3, seeds_of="for each set")
@click.option("--peers", default="", help="python of the environment that has anomalib")
@click.option("--peer-minutes", default=60.0, show_default=True, help="For each of anomalib's models.")
@click.option(
    "--results", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Gets the tables."
)
@click.option(
    "--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Gets the short table."
)
@click.option("--figures", type=click.Path(path_type=Path), help="Folder of the picture; default: --output.")
@click.option("--figure", default="kolektor", show_default=True, help="The set that is drawn.")
@click.option("--only-tables", is_flag=True, help="Run nothing; tell of what is there.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: Any) -> None:
    """Run what is missing, and tell of all."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    places = {"results": asked["results"], "readme": asked["readme"]}
    for path in filter(None, places.values()):
        refuse_without_markers(path)  # before hours of work
    output.mkdir(parents=True, exist_ok=True)
    terminal, label = Terminal(), label_of(settings)
    if not asked["only_tables"]:
        cells = list(grid(sets, seeds, settings, data=data, say=terminal.say))
        run_all(output, cells, label, terminal)
        if installed(asked["peers"]):
            run_peers(output, cells, label, asked["peers"], 60 * asked["peer_minutes"])
        else:
            terminal.say(ABSENT.replace("--anomalib", "--peers"))
    drawn = asked["figure"], asked["figures"] or output
    tell(output, sets.split(","), label, places=places, figure=drawn)


if __name__ == "__main__":
    main()
