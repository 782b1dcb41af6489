"""`anomaly-ft analyse shortcuts RUN`: does the detector look at the defect, before and after fine-tuning?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anomaly_ft.analysis.relevance import (
    BASELINES,
    MEAN,
    Attribution,
    blurred,
    carriers,
    deletion,
    feature_relevance,
    integrated_gradients,
    look,
    rank_correlation,
)
from anomaly_ft.data.images import Decoder, resize_image
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import Record
from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.gallery import choose
from anomaly_ft.evaluation.localisation import Mask
from anomaly_ft.evaluation.study_figures import Shown, relevance_figure
from anomaly_ft.metrics import Floats
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.model.inference import pooled_features
from anomaly_ft.run.both_encoders import (
    FROZEN,
    TUNED,
    BothEncoders,
    digests,
    gaussian_of,
    open_both,
    refuse_without_test,
)
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.explain_tables import differences, summary_rows
from anomaly_ft.run.study import Row, log_with_run, open_study

NAME = "shortcuts"
RANDOM = "random weights"
SANE = 8  # images on which weights are randomised
PICTURES = 6
SHUFFLED = 10_000  # added to the seed: an encoder whose weights were random from the start gets others


@dataclass(frozen=True)
class Effort:
    """How many defective images are explained, and with how many steps of integrated gradients."""

    images: int = 24
    steps: int = 24


@dataclass(frozen=True)
class _Explainer:
    """What all images share: detectors by name, baselines, masks."""

    both: BothEncoders
    tuned: GaussianDetector
    steps: int

    @cached_property
    def detectors(self) -> Mapping[str, GaussianDetector]:
        """Of the pretrained encoder, of the fine-tuned one where it was kept, of one with random weights."""
        setup, position = self.both.setup, self.tuned.settings.position
        settings = replace(setup.detector_settings(), position=position)
        torch.manual_seed(SHUFFLED + self.both.recipe.seed)
        shuffled = load_encoder(
            self.both.recipe.encoder.name,
            "random",
            levels=setup.encoder.levels,
            image_size=setup.encoder.image_size,
        )
        images = setup.varied("train").pixels, setup.varied("val").pixels
        fitted = {
            name: fit_detector(encoder, *images, setup.compute, settings)
            for name, encoder in {FROZEN: setup.encoder, RANDOM: setup.compute.prepare(shuffled)}.items()
        }
        return fitted | ({TUNED: self.tuned} if self.both.kept_epoch else {})

    @cached_property
    def mean_image(self) -> Tensor:
        """Of the training images, `(1, 3, h, w)`."""
        pixels = self.both.setup.data.normals("train").pixels
        total = sum(pixels[i].astype(np.float64) for i in range(len(pixels)))
        return self._tensor(np.asarray(total / len(pixels), np.float32))

    def image(self, i: int) -> Tensor:
        """Fetch a test image, `(1, 3, h, w)` in 0..255."""
        return self._tensor(self.both.setup.data.test.pixels[i].astype(np.float32))

    def baseline(self, name: str, image: Tensor) -> Tensor:
        """Make what an image is compared with."""
        return self.mean_image if name == MEAN else blurred(image)

    def score(self, name: str, images: Tensor) -> Tensor:
        """Compute the score that decides, differentiable."""
        detector = self.detectors[name]
        with detector.encoder.folded():
            return detector.scores(detector.encoder(images))[detector.decides]

    def attribution(self, name: str, i: int, baseline: str) -> Attribution:
        """Compute the relevance of the pixels of a test image."""
        image = self.image(i)
        return integrated_gradients(
            partial(self.score, name), image, self.baseline(baseline, image), steps=self.steps
        )

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        device = self.both.setup.compute.fabric.device
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].to(device)


def explain_run(
    folder: Path, terminal: Terminal, effort: Effort, *, root: str | None = None, output: Path | None = None
) -> tuple[Path, list[Row], list[Row]]:
    """Explain the scores of test images of a finished run by their pixels; returns the study's folder, its
    table and what fine-tuning changes.

    Args:
        folder: of the run.
        terminal: for progress.
        effort: images and steps.
        root: where the run's images are now; unset: where they were.
        output: where the folder of studies goes; unset: beside the run.

    Raises:
        RunError: see `open_both`; or too few test images.
    """
    if effort.images < 1 or effort.steps < 1:
        raise RunError(f"--images and --steps: expected 1 or more, got {effort.images} and {effort.steps}")
    both = open_both(folder, terminal, root)
    tuned = gaussian_of(folder, both.run, "an explanation of a run")
    refuse_without_test(folder, both.setup, "an explanation of a run", 1)
    name, records = folder.resolve().name, both.setup.data.test.records
    if not any(record.mask for record in records):
        terminal.say(f"{both.recipe.data.root} has no masks: where defects are is not known, so the share of "
                     "relevance inside them is left out; the frame and deletion are measured")  # fmt: skip
    place = (output or folder.resolve().parent) / f"{name}-studies" / NAME
    settings = {"study": NAME, "run": name, **asdict(effort), **digests(folder, both.setup)}
    with open_study(place, settings, terminal) as study:
        explainer, chosen = _Explainer(both, tuned, effort.steps), _chosen(records, effort.images)
        rows: list[Row] = []
        for place_in, i in enumerate(terminal.track(chosen, "explaining", len(chosen), unit="")):
            sane = records[i].anomalous and place_in < SANE
            rows += study.step(records[i].name, partial(_explain, explainer, i, sane=sane))
        levels = study.step("levels", partial(_levels, explainer))
        table, changes = summary_rows(rows), differences(rows, FROZEN, TUNED)
        plain = [{key: value for key, value in row.items() if key != "blocks"} for row in rows]
        figures = {"relevance": relevance_figure(_pictures(explainer, chosen, rows))}
        study.write({"shortcuts": table, "images": plain, "changes": changes, "levels": levels}, figures)
        log_with_run(study, folder, both.recipe)
    return place, table, changes


def _chosen(records: Sequence[Record], count: int) -> list[int]:
    """Choose positions of defective test images, of each kind in turn, those with masks first, and of a
    quarter as many good ones."""
    masked = [i for i, record in enumerate(records) if record.anomalous and record.mask]
    there = masked or [i for i, record in enumerate(records) if record.anomalous]
    good = [i for i, record in enumerate(records) if not record.anomalous]
    defective = [there[k] for k in choose([records[i] for i in there], count)]
    return defective + [good[k] for k in choose([records[i] for i in good], max(1, count // 4))]


def _explain(explainer: _Explainer, i: int, *, sane: bool) -> list[Row]:
    """Explain one test image, a row for each encoder and baseline; with `sane` also random weights."""
    setup, image = explainer.both.setup, explainer.image(i)
    record, decoder = setup.data.test.records[i], explainer.both.run.decoder
    mask = _mask(record, decoder)
    chance = np.random.default_rng([explainer.both.recipe.seed, i]).normal(size=tuple(image.shape[2:]))
    shuffled = {kind: explainer.attribution(RANDOM, i, kind).maps[0] for kind in BASELINES} if sane else {}
    rows: list[Row] = []
    for name in explainer.detectors:
        if name == RANDOM:
            continue
        maps = {baseline: explainer.attribution(name, i, baseline) for baseline in BASELINES}
        same = rank_correlation(*(relevance_map.maps[0] for relevance_map in maps.values()))
        for baseline, relevance_map in maps.items():
            other = shuffled.get(baseline)
            score, against = partial(explainer.score, name), explainer.baseline(baseline, image)
            rows.append(
                {
                    "image": record.name,
                    "kind": record.kind,
                    "anomalous": record.anomalous,
                    "encoder": name,
                    "baseline": baseline,
                    "error": float(relevance_map.error[0]),
                    **asdict(look(relevance_map.maps[0], mask)),
                    "deletion": deletion(score, image, against, relevance_map.maps[0]),
                    "deletion_chance": deletion(score, image, against, chance),
                    "same_baselines": same,
                    "same_random": rank_correlation(relevance_map.maps[0], other)
                    if other is not None
                    else None,
                    "blocks": _coarse(relevance_map.maps[0]),
                }
            )
    return rows


def _levels(explainer: _Explainer) -> list[Row]:
    """Measure of each encoder and level its share of the sum of squared distances of good and of defective
    test images, and how many features carry half of what raises it."""
    setup = explainer.both.setup
    anomalous = np.array([record.anomalous for record in setup.data.test.records])
    rows: list[Row] = []
    for name, detector in explainer.detectors.items():
        if name == RANDOM:
            continue
        features = pooled_features(detector.encoder, setup.data.test.pixels, setup.compute)
        relevance = [
            feature_relevance(torch.from_numpy(level), *(t.cpu() for t in detector.level_gaussian(k))).numpy()
            for k, level in enumerate(features)
        ]
        total = np.stack([level.sum(1) for level in relevance])  # (levels, n)
        shares = total / total.sum(0)
        for k, level in enumerate(detector.encoder.levels):
            rows.append(
                {
                    "encoder": name,
                    "level": level,
                    "features": relevance[k].shape[1],
                    "share_good": float(shares[k, ~anomalous].mean()),
                    "share_defective": float(shares[k, anomalous].mean()),
                    "carriers_good": float(np.median(carriers(relevance[k][~anomalous]))),
                    "carriers_defective": float(np.median(carriers(relevance[k][anomalous]))),
                }
            )
    return rows


def _mask(record: Record, decoder: Decoder) -> Mask | None:
    """Read where the defect is in the encoder's input, `(size, size)`; None where there is no usable mask."""
    if record.mask is None:
        return None
    try:
        marked = read_mask(record.mask)
    except Exception:  # decoders raise nearly anything on damaged files
        return None
    picture = Image.fromarray(marked.astype(np.uint8) * 255).convert("RGB")
    mask: Mask = np.asarray(resize_image(picture, decoder.size, decoder.resize))[..., 0] > 127
    return mask if mask.any() else None


def _coarse(relevance: Floats, side: int = 28) -> list[list[float]]:
    """Shrink a map for figures, `(side, side)`, as JSON holds it."""
    image = Image.fromarray(relevance.astype(np.float32))
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float64)
    return [[float(f"{value:.4g}") for value in line] for line in small]


def _pictures(explainer: _Explainer, chosen: Sequence[int], rows: Sequence[Row]) -> list[Shown]:
    """Collect the first images with the maps of each encoder."""
    test = explainer.both.setup.data.test
    shown = []
    for i in chosen[:PICTURES]:
        rows_of_image = [
            row for row in rows if row["image"] == test.records[i].name and row["baseline"] == MEAN
        ]
        maps = {row["encoder"]: np.array(row["blocks"], np.float32) for row in rows_of_image}
        mask = _mask(test.records[i], explainer.both.run.decoder)
        shown.append(Shown(test.records[i].name, np.asarray(test.pixels[i]), mask, maps))
    return shown
