"""Known defects in a run: read, shown to the objective, and measured apart from what is one-class."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anomaly_ft.data.dataset import Dataset
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.known_defects import KEY, load_known_defects
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record
from anomaly_ft.data.variation import Variation, with_copies
from anomaly_ft.finetune.methods.known_defects import copies_of
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.run_summary import KnownDefectsSummary, KnownKinds

NOTHING_TRAINS = f"{KEY}: known defects do nothing where schedule.max_epochs is 0; nothing is trained"


def read_known(recipe: Recipe, data: Dataset) -> Images | None:
    """Read the known defects that a recipe names; None where it names none.

    Raises:
        DataError: see `load_known_defects`.
    """
    section = recipe.data
    if not section.known_defects:
        return None
    decoder = Decoder(section.image_size, section.resize, section.range)
    used = (*data.undivided.records, *data.test.records)
    return load_known_defects(Path(section.known_defects).expanduser(), decoder, used)


def shown_defects(known: Images | None, variation: Variation) -> Pixels | None:
    """Fetch known defects and after all of them their varied copies, as every step shows them; None of none."""
    if known is None:
        return None
    copies = with_copies(known, variation, copies_of(len(known))).pixels
    return copies[np.arange(len(copies))]


def known_digest(known: Images | None) -> str:
    """Hash the known defects (BLAKE2b), as training is shown them; empty where there are none."""
    if known is None:
        return ""
    return hashlib.blake2b(np.ascontiguousarray(known.pixels).data, digest_size=16).hexdigest()


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
