"""Put a summary into words: the sentence, the sparkline, the note of a run in MLflow."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from anomaly_ft.evaluation.metric_names import on_test
from anomaly_ft.recipe.filter import PIXELS
from anomaly_ft.run.run_summary import PositionSummary, RunSummary, TeacherSummary
from anomaly_ft.run.summary_parts import ConditionRow, Rejected, StopReason, UnderCondition

SHOWN = ("image_auroc", "image_ap", "image_tpr_at_1pct_fpr", "pixel_auroc")  # metrics in a note


def verdict(curve: Sequence[float], best: int, reason: StopReason) -> str:
    """Say what became of the encoder in a few words, for a column of a table; the arguments are those of
    `story`.

    >>> verdict([0.8, 0.82, 0.85, 0.8, 0.78, 0.77], 2, "forgetting")
    'forgot after epoch 2 of 5, kept 2'
    >>> verdict([0.8, 0.82, 0.835, 0.77, 0.76], 0, "forgetting")
    'forgot after epoch 2 of 4, kept pretrained'
    """
    epochs = _last(curve, reason)
    if epochs == 0:
        return "pretrained, not trained"
    if reason == "diverged":
        return f"diverged in epoch {epochs}, kept {best or 'pretrained'}"
    if reason == "forgetting":
        return f"forgot after epoch {peak(curve, best)} of {epochs}, kept {best or 'pretrained'}"
    return f"kept epoch {best} of {epochs}" if best else "no gain, kept pretrained"


def doubtful(summary: RunSummary) -> str:
    """Name the training images that stand out from the others; nothing where none does."""
    names = [image.name for image in summary.suspicious if image.stands_out]
    if not names:
        return ""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    verb = "stand" if len(names) > 1 else "stands"
    return f"{', '.join(names[:2])}{more} {verb} out from the other training images, see the report"


def verdict_of(summary: RunSummary) -> str:
    """Say what became of the encoder of a run, see `verdict`."""
    return verdict(summary.curve, summary.best_epoch, summary.stop_reason)


def peak(curve: Sequence[float], best: int) -> int:
    """Find the epoch after which vicinal AUROC fell: the highest from the kept one on. It is a later one where
    its lead over the kept one may be noise.

    >>> peak([0.8, 0.82, 0.835, 0.77, 0.76], 0)
    2
    """
    return max(range(best, len(curve)), key=lambda epoch: curve[epoch])


def _last(curve: Sequence[float], reason: StopReason) -> int:
    """Count the epochs that were trained."""
    return len(curve) - 1 + (reason == "diverged")  # the epoch that diverged has no AUROC


def run_note(summary: RunSummary, folder: Path) -> str:
    """Write in Markdown what happened, frozen against fine-tuned, the threshold, and how to use the
    encoder."""
    return "\n\n".join(
        [
            story_of(summary),
            *([f"Look at {doubt}."] if (doubt := doubtful(summary)) else []),
            _result_table(summary),
            _threshold(summary),
            *([where] if (where := position_sentence(summary.position)) else []),
            *([by] if (by := teacher_sentence(summary.teacher)) else []),
            f"Run folder: `{folder}` with `report.html`; its files are among the artifacts, encoder and "
            "detector in the logged model.",
            *([_encoder_use(folder)] if summary.encoder != PIXELS else []),
            f"The detector scores images:\n\n```\nanomaly-ft predict {folder} new/\n```",
        ]
    )


def _encoder_use(folder: Path) -> str:
    if (folder / "adapter").exists():
        command = f"anomaly-ft export {folder} --format timm --output encoder"
        return f"The encoder as a timm model:\n\n```\n{command}\n```"
    return (
        f"The encoder is a timm model:\n\n```python\nimport timm\n\nmodel = timm.create_model(\n"
        f'    "local-dir:{folder / "encoder"}", pretrained=True, features_only=True\n)\n```'
    )


def _result_table(summary: RunSummary) -> str:
    frozen, tuned, data = summary.frozen_test, summary.test, summary.data
    if tuned is None:
        return "There was no test split, so there is no test number."
    rows = [
        f"| {data.test_normal} normal, {data.test_anomalous} anomalous test images, {summary.score} score "
        "| frozen | fine-tuned | gain |",
        "|---|---|---|---|",
    ]
    for name in SHOWN:
        before, after = (frozen or {}).get(name), tuned.get(name)
        if after is None:
            continue
        if before is None:
            rows.append(f"| {on_test(name).label} | | {after:.4f} | |")
            continue
        ends = summary.gain_intervals.get(name)
        between = f" (95 %: {ends[0]:+.4f} to {ends[1]:+.4f})" if ends else ""
        rows.append(f"| {on_test(name).label} | {before:.4f} | {after:.4f} | {after - before:+.4f}{between} |")
    return "\n".join(rows)


def _threshold(summary: RunSummary) -> str:
    point, test = summary.thresholds, summary.test or {}
    sure = f" with {point.confidence:.0%} confidence" if point.confidence else " on average"
    text = (
        f"Threshold {point.threshold:.4g}: at most {point.guaranteed_fpr:.2%} of normal images are to be "
        f"rejected{sure}, from {point.images} held-out ones."
    )
    false, true = test.get("false_positive_rate"), test.get("true_positive_rate")
    if false is not None and true is not None:
        text += f" On the test split: {false:.2%} of normal, {true:.2%} of anomalous images."
    return "  ".join([text, varied_sentence(summary)]).strip()


def at_the_threshold(summary: RunSummary) -> Iterator[str]:
    """Say what the threshold did to test images, and whether that agrees with what it guarantees."""
    measured = summary.test_threshold
    if measured and (seen := measured.observed):
        agrees = "in agreement with the guarantee"
        if seen.low > measured.guaranteed_fpr:
            agrees = "above the guarantee: test images differ from those that set it, or an unlucky draw"
        yield (
            f"At the threshold {seen.rejected} of {seen.images} normal test images are rejected "
            f"({seen.rate:.1%}; 95 % interval {seen.low:.1%} to {seen.high:.1%}): {agrees}."
        )
    found = (summary.test or {}).get("true_positive_rate")
    if found is not None:
        yield f"At the threshold {found:.1%} of the anomalous test images are found."


def position_sentence(summary: PositionSummary | None) -> str:
    """Say whether parts lie in their places, and how that is known; nothing of runs older than this."""
    if summary is None:
        return ""
    says = {
        "fixed": "each place of the image has a Gaussian of its own",
        "free": "your parts lie in different places, so all places share one Gaussian",
    }[summary.chosen]
    fixed, free, error = summary.fixed_vicinal_auroc, summary.free_vicinal_auroc, summary.standard_error
    if summary.asked == "auto" and fixed is None:
        return f"Positions are {summary.chosen}: {says}. Nothing else fits images that letterbox puts on black."
    if fixed is None or free is None or error is None:
        return f"Positions are {summary.chosen}, as the recipe says: {says}."
    return (
        f"Positions are {summary.chosen}: {says}. Vicinal AUROC of the highest distance at any position, "
        f"before training: {fixed:.3f} with fixed positions, {free:.3f} with free ones "
        f"(difference {free - fixed:+.3f}, standard error {error:.3f})."
    )


def teacher_sentence(teacher: TeacherSummary | None) -> str:
    """Say which encoder taught, exactly; nothing where none did."""
    if teacher is None:
        return ""
    return (
        f"{teacher.name} taught ({', '.join(teacher.levels)}; weights from {teacher.weights}, sha256 "
        f"{teacher.sha256}); nothing of it is kept."
    )


def update_sentences(summary: RunSummary) -> list[str]:
    """Say what new images changed; nothing of a run that was trained."""
    update = summary.update
    if update is None:
        return []
    point, added = summary.thresholds, update.added
    before, after = update.false_alarms_before, update.false_alarms
    sure = f" with {point.confidence:.0%} confidence" if point.confidence else " on average"
    alone = f"; {point.decided_by} alone decides it, see that it is good" if point.decided_by else ""
    return [
        f"added to {update.of}: {added['train']} images to the statistics, {added['val']} to the scale of "
        f"scores, {added['calibration']} to the threshold",
        f"threshold {update.threshold_before:.4g} -> {point.threshold:.4g}, set on {point.images} images: at "
        f"most {point.guaranteed_fpr:.2%} of good ones are rejected{sure}{alone}",
        f"false alarms among the {before.images} calibration images of training: {before.rejected} -> "
        f"{after.rejected}; their scores moved by {update.score_shift:+.2f} standard deviations",
    ]


def varied_sentence(summary: RunSummary) -> str:
    """Say what one to three changes at once do to both detectors; nothing where it was not measured."""
    row = summary.variation.several() if summary.variation else None
    if row is None or row.rejected is None or row.frozen_rejected is None:
        return ""
    auroc = ""
    if row.auroc is not None and row.frozen_auroc is not None:
        auroc = f"image AUROC {row.auroc:.3f} (frozen {row.frozen_auroc:.3f}), "
    benign = summary.variation and summary.variation.strengths
    which = "images vary as the recipe calls benign, one to three changes at once as in training"
    if not benign:
        which = "light, focus, noise, compression and shift vary, one to three changes at once"
    return (
        f"If {which} (a few images): {auroc}"
        f"{row.rejected:.0%} of the good ones rejected (frozen {row.frozen_rejected:.0%})."
    )


def story(
    curve: Sequence[float], best: int, reason: StopReason, mixed: Mapping[float, float] | None = None
) -> str:
    """Say what happened to the encoder, in one sentence and one sparkline of the vicinal AUROC.

    Args:
        curve: vicinal AUROC of the epochs that have one, 0 first.
        best: the epoch that was kept.
        reason: why training ended.
        mixed: vicinal AUROC by the share of that epoch's weights that was mixed with pretrained ones, the one
            kept last; nothing where none was.

    >>> print(story([0.8, 0.84, 0.82], 1, "forgetting"))
    Forgetting set in after epoch 1: the encoder of epoch 1 is kept, its vicinal AUROC is 0.8400 (pretrained \
0.8000).  ▁█▄
    >>> print(story([0.8, 0.804, 0.802], 0, "no_progress"))
    Nothing was gained after epoch 0: the pretrained encoder is kept, fine-tuning did not help (epoch 1 \
reached 0.8040, no more above 0.8000 than noise explains).  ▁█▅
    >>> print(story([0.8], 0, "max_epochs"))
    No epoch was asked for: the encoder is the pretrained one, its vicinal AUROC 0.8000.
    """
    last, highest = _last(curve, reason), peak(curve, best)
    if last == 0 and reason == "max_epochs":
        return f"No epoch was asked for: the encoder is the pretrained one, its vicinal AUROC {curve[0]:.4f}."
    why = {
        "forgetting": f"Forgetting set in after epoch {highest}",
        "no_progress": f"Nothing was gained after epoch {best}",
        "max_epochs": f"All {last} epochs were trained" if last > 1 else "The one epoch was trained",
        "diverged": f"Training diverged in epoch {last}",
    }[reason]
    kept = "the pretrained encoder is kept, fine-tuning did not help"
    if best:
        share, auroc = list(mixed.items())[-1] if mixed else (1.0, curve[best])
        of = "the encoder" if share == 1 else f"a mixture of {share:.0%} of the weights"
        rest = "" if share == 1 else f" and {1 - share:.0%} of the pretrained ones"
        kept = (
            f"{of} of epoch {best}{rest} is kept, its vicinal AUROC is {auroc:.4f} (pretrained {curve[0]:.4f})"
        )
    if highest > best:
        reached = f"epoch {highest} reached {curve[highest]:.4f}"
        kept += f" ({reached}, no more above {curve[best]:.4f} than noise explains)"
    return f"{why}: {kept}.  {sparkline(curve)}"


def story_of(summary: RunSummary) -> str:
    """Say what happened to the encoder of a run, see `story`, and what was seen where it forgot."""
    told = story(summary.curve, summary.best_epoch, summary.stop_reason, summary.mixed)
    forgot = summary.stop_reason == "forgetting" and summary.stop_why
    return f"{told}\nSeen: {summary.stop_why}." if forgot else told


def sparkline(values: Sequence[float]) -> str:
    """Draw the values as bars between the lowest and the highest of them.

    >>> sparkline([0.8, 0.84, 0.82])
    '▁█▄'
    """
    low, span = min(values, default=0.0), (max(values, default=0.0) - min(values, default=0.0)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / span)] for value in values)


def condition_cells(row: ConditionRow) -> dict[str, str]:
    """Name the cells of one condition in a table, the frozen detector's beside where they are at hand."""
    detectors: dict[str, UnderCondition | None] = {"": row, ", frozen": row.frozen}
    cells = {"": row.condition, "normal": str(row.normal), "anomalous": str(row.anomalous)}
    for title, of in (("false alarms", _false_alarms), ("found", _found), ("image AUROC", _auroc)):
        cells |= {f"{title}{whose}": of(part) for whose, part in detectors.items() if part}
    return cells


def _false_alarms(part: UnderCondition) -> str:
    return _rejected(part.false_alarms)


def _found(part: UnderCondition) -> str:
    return _rejected(part.found)


def _rejected(share: Rejected | None) -> str:
    if share is None:
        return "-"
    return f"{share.rejected} ({share.rate:.1%}; {share.low:.1%} to {share.high:.1%})"


def _auroc(part: UnderCondition) -> str:
    if part.image_auroc is None:
        return "-"
    ends = part.image_auroc_interval
    return f"{part.image_auroc:.4f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
