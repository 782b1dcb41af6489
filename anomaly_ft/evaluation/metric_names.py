"""The metrics of a run: name, human label, meaning and digits, in one table that all readers share.

The names stand in MLflow, `history.jsonl` and `anomaly-ft compare`. Charts in MLflow group by the part before
the slash. The step is the epoch, 0 the pretrained encoder. `train/` and `val/` are curves. All others are
logged once, after the best epoch's weights were restored, so their last value is what the run left.
"""

import re
from dataclasses import dataclass

PERCENT = ".2%"


@dataclass(frozen=True)
class Metric:
    """What a metric is called and means; `form` is how its numbers are written.

    `at_threshold`: at the run's own thresholds, which the frozen encoder does not have. `detail`: for report,
    summary and MLflow; the terminal leaves it out.
    """

    label: str
    meaning: str
    form: str = ".4f"
    at_threshold: bool = False
    detail: bool = False


# `<augmentation>`, `<level>` and `<metric>` stand for names
METRICS: dict[str, Metric] = {
    "train/loss": Metric(
        "train loss",
        "mean distance of the epoch's training images to the induced Gaussians; lower is nearer",
        ".3f",
    ),
    "train/images_per_second": Metric("images per second", "training speed", ".0f"),
    "val/vicinal_auroc": Metric(
        "vicinal AUROC",
        "the number that decides: how well held-out normal images are told from pseudo-anomalies, mean over "
        "the informative augmentations; in [0, 1], higher is better",
    ),
    "val/vicinal_auroc.<augmentation>": Metric(
        "vicinal AUROC, <augmentation>", "the same for one augmentation"
    ),
    "val/normal_score_mean": Metric("mean normal score", "mean score of held-out normal images"),
    "val/train_distance": Metric(
        "distance of training images", "mean distance, over levels, of images that were trained on"
    ),
    "val/held_out_distance": Metric(
        "distance of held-out images",
        "the same of held-out normal images; a growing lead over training images says that the encoder "
        "memorises",
    ),
    "drift/cka.<level>": Metric(
        "CKA, <level>",
        "linear CKA of held-out normal images' features with those before training; 1: unmoved",
    ),
    "drift/effective_rank.<level>": Metric(
        "effective rank, <level>",
        "how many directions these features fill; falls when they collapse",
        ".1f",
    ),
    "best/epoch": Metric("kept epoch", "the epoch whose encoder was kept; 0: the pretrained one", ".0f"),
    "best/vicinal_auroc": Metric("kept vicinal AUROC", "`val/vicinal_auroc` of the encoder that was kept"),
    "gain/vicinal_auroc": Metric(
        "gain in vicinal AUROC", "the same, less that of the pretrained encoder", "+.4f"
    ),
    "frozen/<metric>": Metric("frozen <metric>", "of the pretrained encoder's detector on the test images"),
    "test/<metric>": Metric("fine-tuned <metric>", "of the fine-tuned encoder's detector on the test images"),
    "gain/<metric>": Metric(
        "gain in <metric>",
        "`test/<metric>` less `frozen/<metric>`; above 0: fine-tuning helped (of good images rejected: below)",
        "+.4f",
    ),
    "threshold/score": Metric("threshold", "the score above which an image is called anomalous"),
    "threshold/guaranteed_fpr": Metric(
        "guaranteed FPR", "share of normal images that the threshold is guaranteed to reject at most", PERCENT
    ),
    "threshold/varied_fpr": Metric(
        "guaranteed FPR, varied",
        "the same for normal images that vary as much as the recipe calls benign",
        PERCENT,
    ),
    "varied/image_auroc": Metric(
        "image AUROC, varied",
        "of the fine-tuned encoder's detector on a few test images, or held-out ones where there are none, "
        "with one to three changes at once, drawn for each image as in training",
    ),
    "varied/false_positive_rate": Metric(
        "good rejected, varied", "share of the good ones among them that it rejects", PERCENT
    ),
    "frozen_varied/image_auroc": Metric(
        "frozen image AUROC, varied", "of the pretrained encoder's detector on the same images"
    ),
    "frozen_varied/false_positive_rate": Metric(
        "frozen good rejected, varied", "share of the good ones that it rejects", PERCENT
    ),
    "fixed_position/vicinal_auroc": Metric(
        "vicinal AUROC, fixed positions",
        "of the pretrained encoder's highest distance at any position, with a Gaussian at each of them, where "
        "`gaussian.position: auto` compared both",
    ),
    "free_position/vicinal_auroc": Metric(
        "vicinal AUROC, free positions",
        "the same with one Gaussian of all positions, for parts that lie anyhow",
    ),
    "known_defects/seen_image_auroc": Metric(
        "image AUROC, seen kinds",
        "of the fine-tuned encoder's detector on the kinds of defects that were in the objective "
        "(`data.known_defects`), against good test images",
    ),
    "known_defects/unseen_image_auroc": Metric(
        "image AUROC, unseen kinds", "the same on all other known kinds"
    ),
    "known_defects/frozen_seen_image_auroc": Metric(
        "frozen image AUROC, seen kinds", "of the pretrained encoder's detector on the same images"
    ),
    "known_defects/frozen_unseen_image_auroc": Metric("frozen image AUROC, unseen kinds", "likewise"),
    "condition/<condition>.<metric>": Metric(
        "<metric>, <condition>",
        "of an evaluation with `--by`: `false_alarm_rate`, `found_rate` and `image_auroc` of each condition; "
        "with `frozen_` before it that of the pretrained encoder's detector",
    ),
    "system/<metric>": Metric(
        "<metric>", "of the machine while it trained, with `expert.tracking.system_metrics: true`"
    ),
}
# on test images; `<score>` and `<map>` stand for those that the detector has
TEST_METRICS: dict[str, Metric] = {
    "image_auroc": Metric("image AUROC", "area under the ROC curve over images, of the score that decides"),
    "<score>_image_auroc": Metric("image AUROC, <score> score", "the same of each score that the detector has"),
    "image_ap": Metric("image average precision", "average precision over images"),
    "image_f1_max": Metric("image F1, best threshold", "F1 at the threshold that makes it highest"),
    "image_tpr_at_1pct_fpr": Metric(
        "anomalies found at 1 % FPR",
        "share of anomalous images found where 1 % of normal ones are rejected; also called PB1, presorted bad",
    ),
    "image_tpr_at_5pct_fpr": Metric("anomalies found at 5 % FPR", "the same for 5 % (PB5)"),
    "image_tnr_at_1pct_fnr": Metric(
        "good passed at 1 % missed",
        "share of normal images sorted out as good where 1 % of anomalous ones are missed; also called PG1, "
        "presorted good",
        detail=True,
    ),
    "image_tnr_at_5pct_fnr": Metric("good passed at 5 % missed", "the same for 5 % (PG5)"),
    "false_positive_rate": Metric(
        "good images rejected (FPR)",
        "share of normal test images above the run's own threshold",
        PERCENT,
        at_threshold=True,
    ),
    "true_positive_rate": Metric(
        "anomalous images found (TPR)",
        "share of anomalous test images above the run's own threshold",
        PERCENT,
        at_threshold=True,
    ),
    "pixel_auroc": Metric(
        "pixel AUROC",
        "area under the ROC curve over pixels, of the map that localises, shown or not",
    ),
    "pixel_ap": Metric("pixel average precision", "average precision over pixels"),
    "pixel_aupro": Metric(
        "pixel AUPRO (FPR ≤ 0.3)", "area under the per-region overlap curve up to 30 % false positives"
    ),
    "pixel_aupro_5pct": Metric("pixel AUPRO (FPR ≤ 0.05)", "the same up to 5 % false positives", detail=True),
    "pixel_f1_max": Metric(
        "pixel F1, best limit", "F1 over pixels at the limit that makes it highest", detail=True
    ),
    "pixel_aupimo": Metric(
        "pixel AUPIMO",
        "share of an anomalous image's mask that the map covers, mean over such images and over shares of "
        "normal images' pixels, from 1e-5 to 1e-4 (logarithm), that it covers too (Bertoldo et al., 2024)",
        detail=True,
    ),
    "pixel_f1": Metric(
        "pixel F1, own limit",
        "F1 over pixels at the run's own limit of the map; of the kept detector alone",
        at_threshold=True,
        detail=True,
    ),
    "<map>_pixel_auroc": Metric("pixel AUROC, <map> map", "the same of another map"),
    "<map>_pixel_ap": Metric("pixel average precision, <map> map", "likewise"),
    "<map>_pixel_aupro": Metric("pixel AUPRO (FPR ≤ 0.3), <map> map", "likewise"),
}
STAGES = ("frozen", "test", "gain")


def on_test(name: str) -> Metric:
    """Look up a metric on test images, such as `image_auroc` or `<score>_image_auroc`.

    Raises:
        KeyError: a name that the table does not have.
    """
    if name in TEST_METRICS:
        return TEST_METRICS[name]
    match = re.fullmatch(r"(\w+?)_(image|pixel)_(\w+)", name)
    place = {"image": "<score>", "pixel": "<map>"}
    if not match or (known := f"{place[match[2]]}_{match[2]}_{match[3]}") not in TEST_METRICS:
        raise KeyError(name)
    entry = TEST_METRICS[known]
    return Metric(entry.label.replace(place[match[2]], match[1]), entry.meaning, entry.form)


def metric(name: str) -> Metric:
    """Look up a metric under its full name, such as `gain/image_auroc`.

    Raises:
        KeyError: a name that the table does not have.
    """
    if name in METRICS:
        return METRICS[name]
    stage, _, rest = name.partition("/")
    if stage not in STAGES:
        raise KeyError(name)
    entry = on_test(rest)
    if entry.at_threshold:  # there is one encoder only that has thresholds
        return entry
    outer = METRICS[f"{stage}/<metric>"]
    form = "+" + entry.form if stage == "gain" else entry.form
    return Metric(outer.label.replace("<metric>", entry.label), outer.meaning, form)


PHASES = {  # of a run, in the order in which they begin
    "prepare": "reading images",
    "fit": "fitting the frozen encoder's statistics",
    "calibrate": "setting severities",
    "validate_pretrained": "validating the frozen encoder",
    "train": "training",
    "validate": "validating",
    "choose": "mixing weights",
    "audit": "auditing the split",
    "finish": "threshold, test and report",
}
