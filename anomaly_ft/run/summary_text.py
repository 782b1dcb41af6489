"""What a summary says in words: the sentence, the sparkline, the note of a run in MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the data command shows progress too, and must not wait for torch
    pass

from pathlib import Path


def verdict(summary: Mapping[str, Any]) -> str:
    """What became of the encoder in a few words, for a column of a table.

    >>> verdict({"best_epoch": 2, "epochs": 5, "stop_reason": "forgetting"})
    'forgot after epoch 2 of 5, kept 2'
    """
    best, last = summary["best_epoch"], summary["epochs"]
    if last == 0:
        return "pretrained, not trained"
    if summary["stop_reason"] == "diverged":
        return f"diverged in epoch {last}, kept {best or 'pretrained'}"
    if summary["stop_reason"] == "forgetting":
        return f"forgot after epoch {best} of {last}, kept {best or 'pretrained'}"
    return f"kept epoch {best} of {last}" if best else "no gain, kept pretrained"


def run_note(summary: Mapping[str, Any], folder: Path) -> str:
    """Markdown: what happened, frozen against fine-tuned, the threshold, and how to use the encoder."""
    return "\n\n".join(
        [
            story(summary),
            _result_table(summary),
            _threshold(summary),
            f"Run folder: `{folder}` with `report.html`; the same files are among the artifacts.",
            "The encoder is a timm model:",
            f'```python\nimport timm\n\nmodel = timm.create_model(\n    "local-dir:{folder / "encoder"}", '
            "pretrained=True, features_only=True\n)\n```",
            f"The detector scores images:\n\n```\nanomaly-ft predict {folder} new/\n```",
        ]
    )


def _result_table(summary: Mapping[str, Any]) -> str:
    frozen, tuned = summary["frozen_test"], summary["test"]
    if frozen is None or tuned is None:
        return "There was no test split, so there is no test number."
    score, data = summary["score"], summary["data"]
    rows = [
        f"| {data['test_normal']} normal, {data['test_anomalous']} anomalous test images "
        "| frozen | fine-tuned | gain |",
        "|---|---|---|---|",
    ]
    labels = {
        "image_auroc": f"image AUROC ({score} score)",
        "image_ap": "average precision",
        "image_tpr_at_1pct_fpr": "found at 1 % false positives",
        "pixel_auroc": "pixel AUROC",
    }
    for key, label in labels.items():
        before, after = frozen.get(key), tuned.get(key)
        if before is None or after is None:
            continue
        ends = summary["gain_intervals"].get(key)
        between = f" (95 %: {ends[0]:+.4f} to {ends[1]:+.4f})" if ends else ""
        rows.append(f"| {label} | {before:.4f} | {after:.4f} | {after - before:+.4f}{between} |")
    return "\n".join(rows)


def _threshold(summary: Mapping[str, Any]) -> str:
    point, test = summary["thresholds"], summary["test"] or {}
    said = (
        f"Threshold {point['threshold']:.4g}: at most {point['promised_fpr']:.2%} of normal images are to be "
        f"rejected, from {point['images']} held-out ones."
    )
    false, true = test.get("false_positive_rate"), test.get("true_positive_rate")
    if false is not None and true is not None:
        said += f" On the test split: {false:.2%} of normal, {true:.2%} of anomalous images."
    return said


def story(summary: Mapping[str, Any]) -> str:
    """What happened to the encoder, in one sentence and one sparkline of the vicinal AUROC.

    >>> print(story({"vicinal_auroc": [0.8, 0.84, 0.82], "best_epoch": 0, "stop_reason": "no_progress"}))
    Nothing was gained after epoch 0: the pretrained encoder is kept, fine-tuning did not help.  ▁█▄
    >>> print(story({"vicinal_auroc": [0.8], "best_epoch": 0, "stop_reason": "max_epochs"}))
    No epoch was asked for: the encoder is the pretrained one, its vicinal AUROC 0.8000.
    """
    curve = [value for value in summary["vicinal_auroc"] if value is not None]
    best, reason = summary["best_epoch"], summary["stop_reason"]
    last = len(summary["vicinal_auroc"]) - 1
    if last == 0 and reason == "max_epochs":
        return f"No epoch was asked for: the encoder is the pretrained one, its vicinal AUROC {curve[0]:.4f}."
    why = {
        "forgetting": f"Forgetting set in after epoch {best}",
        "no_progress": f"Nothing was gained after epoch {best}",
        "max_epochs": f"All {last} epochs were trained" if last > 1 else "The one epoch was trained",
        "diverged": f"Training diverged in epoch {last}",
    }[reason]
    kept = "the pretrained encoder is kept, fine-tuning did not help"
    if best:
        rise = f"{curve[best]:.4f} (pretrained {curve[0]:.4f})"
        kept = f"the encoder of epoch {best} is kept, its vicinal AUROC is {rise}"
    return f"{why}: {kept}.  {sparkline(curve)}"


def worth_line(shortcuts: Mapping[str, Any]) -> str:
    """What the test numbers are worth, from `shortcuts` of a summary.

    >>> worth_line({"verdict": "look at this", "says": "brightness alone tells them apart"})
    'worth       look at this: brightness alone tells them apart'
    """
    return f"worth       {shortcuts['verdict']}: {shortcuts['says']}"


def sparkline(values: Sequence[float]) -> str:
    """The values as bars between the lowest and the highest of them.

    >>> sparkline([0.8, 0.84, 0.82])
    '▁█▄'
    """
    low, span = min(values, default=0.0), (max(values, default=0.0) - min(values, default=0.0)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / span)] for value in values)
