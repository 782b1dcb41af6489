"""The tables of `evidence.py` as Markdown, and where they go. Not a benchmark itself."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import pandas as pd
from evidence_run import CLEAN, DETECTORS, FROZEN, TUNED

from anomaly_ft.model.gaussian.settings import POSITIONS
from anomaly_ft.system.files import write_text

BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
TITLES = {
    "mtd": "MTD",
    "kolektor": "kolektor",
    "macaroni1": "macaroni1",
    "elpv-mono": "ELPV mono",
    "elpv-poly": "ELPV poly",
    "bottle": "bottle",
    "ballscrew": "ballscrew‡",
    "screw": "screw†",
}  # in the order of the tables
LESS_IS_BETTER = {"rejected", "varied.rejected"}
AUROC, REJECTED, FOUND = (("auroc.fused", "varied.auroc.fused"), *(
    (name, f"varied.{name}") for name in ("rejected", "found")
))  # fmt: skip
Line = list[str]


def evidence_tables(rows: pd.DataFrame, peers: pd.DataFrame) -> str:
    """All tables with what stands above them; what was not measured is said."""
    auto = rows[rows["auto"]]
    parts = [
        said_of(rows),
        ACCURACY,
        markdown(["set (seeds)", *DETECTORS, "gain clean", "gain varied"], accuracy(auto)),
        THRESHOLD,
        markdown(["set (seeds)", "promised", *DETECTORS], at_the_threshold(auto)),
        HEADS,
        markdown(["set (seeds)", "`auto` chose", *HEAD_NUMBERS.values()], heads(rows)),
        COST,
        markdown(["set (seeds)", *COSTS.values(), "MiB", "steps kept", "why it ended"], cost(auto)),
    ]
    if len(peers):
        made_by = ", ".join(sorted(set(peers["commit"])))
        parts += [
            f"{PEERS} Rows of commit {made_by}.",
            markdown(["set (seeds)", "model", *PEER_NUMBERS.values()], beside_peers(auto, peers)),
        ]
    else:
        parts.append("anomalib's models were not measured: `--peers` named no python that has anomalib 2.7.")
    return "\n\n".join(parts)


ACCURACY = """\
**Accuracy.** Image AUROC of the fused score, clean / varied; good test images rejected, clean / varied. Means
over seeds; *gain* is fine-tuned over frozen with the same statistics, its mean and, in brackets, its least
and its greatest. Bold: worse than a column to the left, or a gain below zero."""
THRESHOLD = """\
**At the threshold.** Defects found, clean / varied; *promised*: the most good images that may be rejected on
average, clean / varied (statistics of clean images promise nothing of varied ones). Bold as above."""
HEADS = """\
**What a position means.** Frozen; fine-tuned, each with a Gaussian at each position (`fixed`) / one of all
(`free`). The encoder was trained once, with the head that `auto` chose; the other one was fitted to the encoder
that came of it. Pixel numbers are of the dense map. Bold: `auto` did not take the better one."""
COST = """\
**Cost.** Frozen with clean statistics / frozen / fine-tuned: fitting, choosing the head, validation and
training; test images and reading not counted. Milliseconds for all scores of an image; MiB of the Gaussians of
dense score and map."""
PEERS = """\
**Beside anomalib 2.7.** Same backbone, images, size and machine, each model fitted as its own users do; its
milliseconds include decoding. Bold: ours below the best of theirs."""
HEAD_NUMBERS = {
    "auroc.fused": "image AUROC",
    "varied.auroc.fused": "varied",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupro": "AUPRO",
}
COSTS = {"minutes": "minutes", "cpu_seconds": "processor seconds", "ms_image": "ms an image"}
PEER_NUMBERS = {
    "auroc.fused": "image AUROC",
    "varied.auroc.fused": "varied",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupro": "AUPRO",
    "cpu_seconds": "processor seconds",
    "ms_image": "ms an image",
    "peak_mib": "MiB at most",
}
DIGITS = {"ms_image": 1, "mib": 1, "minutes": 1, "cpu_seconds": 0, "peak_mib": 0}


def markdown(headings: Sequence[str], lines: Sequence[Line]) -> str:
    """Lay out a table."""
    whole = [[*headings], ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in whole)


def said_of(rows: pd.DataFrame) -> str:
    """Say which programs, machines and days the rows come from, all of them."""
    names = {
        "commit": "commit",
        "version": "version",
        "machine": "on",
        "threads": "threads",
        "settings": "settings",
    }
    told = [f"{word} {', '.join(map(str, rows[name].dropna().unique()))}" for name, word in names.items()]
    days = sorted(rows["date"].unique())
    return f"Rows of {'; '.join(told)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."


def by_set(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of each set in the order of the tables, with what stands before its line."""
    for name, title in TITLES.items():
        group = rows[rows["set"] == name]
        if len(group):
            yield f"{title} ({group['seed'].nunique()})", group


def marked(text: str, *, lost: bool) -> str:
    """Print a loss in bold."""
    return f"**{text}**" if lost else text


def shown(name: str, value: float) -> str:
    """Print a number as its column does; a dash where there is none."""
    if pd.isna(value):
        return "-"
    if name.endswith(("rejected", "found", "promised")):
        return f"{100 * value:.1f} %"
    return f"{value:.{DIGITS.get(name, 3)}f}"


def is_worse(name: str, value: float, others: Sequence[float]) -> bool:
    """Tell whether a number is worse than any of some others, by the digits that are shown."""
    sign, digits = (-1 if name in LESS_IS_BETTER else 1), DIGITS.get(name, 3)
    return any(sign * round(value, digits) < sign * round(other, digits) for other in others)


def cells(means: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """For each detector some numbers beside each other, bold where a detector before it has a better one."""
    told = {}
    for place, detector in enumerate(DETECTORS):
        left = means.loc[[*DETECTORS[:place]]]
        told[detector] = " / ".join(
            marked(shown(name, value), lost=is_worse(name, value, [*left[name]]))
            for name, value in means.loc[detector, [*names]].items()
        )
    return told


def accuracy(auto: pd.DataFrame) -> list[Line]:
    """AUROC and good images rejected of each detector, and what fine-tuning gains; a line for each set."""
    lines = []
    for title, group in by_set(auto):
        means = group.groupby("detector")[[*AUROC, *REJECTED]].mean()
        aurocs, rejected = cells(means, AUROC), cells(means, REJECTED)
        both = [f"{aurocs[name]}; {rejected[name]}" for name in DETECTORS]
        lines.append([title, *both, *(gain(group, name) for name in AUROC)])
    return lines


def short_table(rows: pd.DataFrame) -> str:
    """The table of the README: AUROC of all detectors, good images rejected by the first and the last."""
    lines = []
    for title, group in by_set(rows[rows["auto"]]):
        means = group.groupby("detector")[[*AUROC, *REJECTED]].mean()
        clean, frozen, tuned = cells(means, AUROC).values()
        rejected = [f"{100 * means.loc[name, REJECTED[1]]:.0f} %" for name in (CLEAN, TUNED)]
        lines.append([title, clean, frozen, tuned, *rejected])
    headings = [
        "set (seeds)",
        f"{FROZEN}, fitted to images as they are",
        f"{FROZEN}, fitted to varied copies too",
    ]
    return markdown([*headings, f"{TUNED} (default)", "good rejected, varied: first column", "default"], lines)


def gain(group: pd.DataFrame, name: str) -> str:
    """Mean, least and greatest gain of fine-tuning over the seeds of a set."""
    seeds = group.pivot(index="seed", columns="detector", values=name)
    gains = seeds[TUNED] - seeds[FROZEN]
    mean, least, most = (
        marked(f"{value:+.4f}", lost=round(value, 4) < 0) for value in (gains.mean(), gains.min(), gains.max())
    )
    return f"{mean} ({least} to {most})"


def at_the_threshold(auto: pd.DataFrame) -> list[Line]:
    """Defects found, and what the default's threshold promises; a line for each set."""
    lines = []
    for title, group in by_set(auto):
        promised = ("promised", "varied.promised")
        means = group.groupby("detector")[[*FOUND, *promised]].mean()
        told = " / ".join(shown(name, means.loc[TUNED, name]) for name in promised)
        lines.append([title, told, *cells(means, FOUND).values()])
    return lines


def heads(rows: pd.DataFrame) -> list[Line]:
    """Both heads of either encoder beside each other; a line for each set."""
    lines = []
    for title, group in by_set(rows[rows["detector"] != CLEAN]):
        counts = group[group["auto"] & (group["detector"] == TUNED)]["head"].value_counts()
        chose = ", ".join(f"{head} {count}" for head, count in counts.items())
        encoders = [some for _, some in group.groupby("detector", sort=False)]
        told = ["; ".join(both_heads(some, name) for some in encoders) for name in HEAD_NUMBERS]
        lines.append([title, chose, *told])
    return lines


def both_heads(rows: pd.DataFrame, name: str) -> str:
    """One number with each head, bold where `auto` did not take the better one."""
    means, auto = rows.groupby("head")[name].mean().loc[[*POSITIONS]], rows[rows["auto"]][name].mean()
    return marked(" / ".join(shown(name, each) for each in means), lost=is_worse(name, auto, [*means]))


def cost(auto: pd.DataFrame) -> list[Line]:
    """Time and memory of the three detectors; a line for each set."""
    lines = []
    for title, group in by_set(auto):
        means = group.groupby("detector")[[*COSTS]].mean().loc[[*DETECTORS]]
        told = [" / ".join(shown(name, value) for value in means[name]) for name in COSTS]
        tuned = group[group["detector"] == TUNED]
        steps = ", ".join(f"{step:.0f}" for step in tuned["kept_step"])
        memory = shown("mib", tuned["mib"].mean())
        lines.append([title, *told, memory, steps, ", ".join(tuned["stop_reason"])])
    return lines


def beside_peers(auto: pd.DataFrame, peers: pd.DataFrame) -> list[Line]:
    """Ours and anomalib's models; a line for each set and model. What did not end is said."""
    lines = []
    for title, group in by_set(auto[auto["set"].isin(peers["set"])]):
        theirs = peers[peers["set"] == group["set"].iloc[0]].reindex(
            columns=[*peers.columns.union(PEER_NUMBERS)]
        )
        best = theirs.groupby("model")[[*PEER_NUMBERS]].mean().max()
        for detector, some in group.groupby("detector", sort=False):
            lines.append([title, str(detector), *numbers_of(some, best)])
        name = title.rpartition(" (")[0]  # theirs may be of fewer seeds
        for model, some in theirs.groupby("model", sort=False):
            counts = some["outcome"].value_counts()
            told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            ended = (some["outcome"] == "ended").all()
            titled = f"{name} ({some['seed'].nunique()})"
            lines.append([titled, str(model) if ended else f"{model} ({told})", *numbers_of(some)])
    return lines


def numbers_of(rows: pd.DataFrame, best: Mapping[str, float] | None = None) -> Line:
    """Means of what is compared with anomalib, bold where another is better."""
    told = []
    for name in PEER_NUMBERS:
        value = rows[name].min() if name == "peak_mib" else rows[name].mean()
        lost = best is not None and name not in DIGITS and is_worse(name, value, [best[name]])
        told.append(marked(shown(name, value), lost=lost))
    return told


def refuse_without_markers(path: Path) -> None:
    """Refuse a file that does not say where the tables go.

    Raises:
        click.ClickException: it has not each marker once, or the end before the beginning.
    """
    text = path.read_text(encoding="utf-8")
    if [text.count(BEGIN), text.count(END)] != [1, 1] or text.index(END) < text.index(BEGIN):
        raise click.ClickException(
            f"{path} has no place for the tables: it needs a line {BEGIN} and below it {END}"
        )


def put_between_markers(path: Path, tables: str) -> None:
    """Replace what stands between the markers of a file."""
    refuse_without_markers(path)
    before, _, left = path.read_text(encoding="utf-8").partition(BEGIN)
    after = left.partition(END)[2]
    write_text(path, f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
