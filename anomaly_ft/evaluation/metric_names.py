"""The metric names of a run, each with what it means: in MLflow, `history.jsonl` and `anomaly-ft compare`.

Charts in MLflow group by the part before the slash. The step is the epoch, 0 the pretrained encoder.
`train/` and `val/` are curves. All other metrics are logged once, after the best epoch's weights were
restored, so their last value is what the run left.
"""

# `<augmentation>` and `<metric>` stand for names
METRICS: dict[str, str] = {
    "train/loss": "mean distance of the epoch's training images to the induced Gaussians; lower is nearer",
    "train/images_per_second": "training speed",
    "val/vicinal_auroc": "the watched number: how well held-out normal images are told from "
    "pseudo-anomalies, mean over the augmentations that have a say; in [0, 1], higher is better",
    "val/vicinal_auroc.<augmentation>": "the same for one augmentation",
    "val/normal_score_mean": "mean score of held-out normal images",
    "val/train_distance": "mean pooled distance of images that were trained on",
    "val/held_out_distance": "the same of held-out normal images; a growing lead over training images says "
    "that the encoder memorises",
    "drift/cka.<level>": "linear CKA of held-out normal images' features with those before training; "
    "1: unmoved",
    "drift/effective_rank.<level>": "how many directions these features fill; falls when they collapse",
    "best/epoch": "the epoch whose encoder was kept; 0: the pretrained one",
    "best/vicinal_auroc": "`val/vicinal_auroc` of the encoder that was kept",
    "gain/vicinal_auroc": "the same, less that of the pretrained encoder",
    "frozen/<metric>": "of the pretrained encoder's detector on the test images",
    "test/<metric>": "of the fine-tuned encoder's detector on the test images",
    "gain/<metric>": "`test/<metric>` less `frozen/<metric>`; above 0: fine-tuning helped",
    "threshold/score": "the score above which an image is called anomalous",
    "threshold/promised_fpr": "share of normal images that the threshold promises to reject at most",
    "system/<metric>": "of the machine while it trained, with `expert.tracking.system_metrics: true`",
}
TEST_METRICS: dict[str, str] = {
    "image_auroc": "area under the ROC curve over images, of the score that decides; also for each score "
    "as `pooled_image_auroc`, `dense_image_auroc`, `fused_image_auroc`",
    "image_ap": "average precision over images",
    "image_f1_max": "F1 at the threshold that makes it highest",
    "image_tpr_at_1pct_fpr": "share of anomalous images found where 1 % of normal ones are rejected; "
    "also `5pct`",
    "false_positive_rate": "share of normal test images above the run's own threshold",
    "true_positive_rate": "share of anomalous test images above the run's own threshold",
    "pixel_auroc": "area under the ROC curve over pixels, of the dense map; also `pixel_ap`",
    "pixel_aupro": "area under the per-region overlap curve up to 30 % false positives, of the dense map",
    "contribution_pixel_auroc": "the same of the contribution map; also `_ap` and `_aupro`",
}
