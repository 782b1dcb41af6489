"""Sum up what known defects did in a run, apart from what is one-class."""

from collections.abc import Sequence

import numpy as np

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.run.run_summary import KnownDefectsSummary, KnownKinds


def summarise_known(
    known: Images | None, records: Sequence[Record], frozen: Predictions | None, tuned: Predictions | None
) -> KnownDefectsSummary | None:
    """Sum up what known defects did for their own kinds and for others; None where there were none.

    Args:
        known: the known defects.
        records: of the test images.
        frozen: what the pretrained encoder's detector says of them; None where there is none.
        tuned: the same of the kept detector; None without test images.
    """
    if known is None:
        return None
    kinds = sorted({record.kind for record in known.records})
    tested = sorted({record.kind for record in records} - {NORMAL, ANOMALOUS})

    def group(chosen: Sequence[str]) -> KnownKinds | None:
        wanted = np.array([r.kind == NORMAL or r.kind in chosen for r in records], dtype=bool)
        labels = np.array([r.anomalous for r in records], dtype=bool)[wanted]
        if tuned is None or not labels.any() or labels.all():
            return None
        return KnownKinds(
            kinds=tuple(chosen),
            images=int(labels.sum()),
            image_auroc=image_auroc(labels, tuned.score[wanted]),
            frozen_image_auroc=None if frozen is None else image_auroc(labels, frozen.score[wanted]),
        )

    return KnownDefectsSummary(
        images=len(known),
        kinds=tuple(kinds),
        not_tested=tuple(kind for kind in kinds if kind not in tested),
        seen=group([kind for kind in tested if kind in kinds]),
        unseen=group([kind for kind in tested if kind not in kinds]),
    )
