"""Put into words what known defects did in a run."""

from collections.abc import Iterator

from anomaly_ft.run.run_summary import KnownDefectsSummary

NOT_ONE_CLASS = "They were in the objective, so no number of this run is a one-class result."


def known_sentences(summary: KnownDefectsSummary | None) -> Iterator[str]:
    """Say what known defects did, apart from all other results; nothing where there were none."""
    if summary is None:
        return
    yield f"{summary.images} known defects ({', '.join(summary.kinds)}). {NOT_ONE_CLASS}"
    for name, group in (("seen", summary.seen), ("unseen", summary.unseen)):
        if group:
            before = "" if group.frozen_image_auroc is None else f"frozen {group.frozen_image_auroc:.4f}, "
            yield (
                f"Kinds {name} in training ({', '.join(group.kinds)}; {group.images} test images): image AUROC "
                f"{before}fine-tuned {group.image_auroc:.4f}."
            )
    if summary.not_tested:
        yield f"No test image is known to be of: {', '.join(summary.not_tested)}."
