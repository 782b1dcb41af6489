"""Every setting of a run, what it may be, and its default: here and nowhere else. Frozen once read.

Which of them a beginner meets, and which stand under `expert`, is said in `recipe.section`.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import Field, ValidationInfo, field_validator, model_validator

from anomaly_ft.recipe.augmentations import USUAL, Augmentation
from anomaly_ft.recipe.filter import PIXELS, SAME_AS_CORRUPTION, FilterSection, Model, what_does_not_fit
from anomaly_ft.recipe.machine import Runtime, Tracking
from anomaly_ft.recipe.section import EXPERT, Section, is_there, places
from anomaly_ft.recipe.training import Optimizer, Schedule, Share, Validation
from anomaly_ft.recipe.variation import SAME_AS, VariationSection

Side = Annotated[int, Field(ge=32, le=2048)]  # in pixels


class Data(Section):
    """The images, and how they are read."""

    root: str = Field(min_length=1)
    """Folder of images, a manifest (.csv, .parquet), or `demo:elpv-mono` / `demo:elpv-poly`."""
    layout: Literal[
        "auto", "mvtec", "visa", "mtd", "kolektor", "dagm", "folders", "annotated", "names", "plain", "manifest"
    ] = "auto"
    """How the images are laid out; `auto` finds out and says so."""
    manifest: str = ""
    """A manifest with paths below `root`, such as the split.csv of an earlier run, to split alike."""
    group_by: str = ""
    """Regular expression with a (group) on paths, or a manifest's column; groups are never split."""
    image_size: Side | tuple[Side, Side] = 224
    """Side in pixels of the square to which images are resized, or [height, width]."""
    resize: Literal["stretch", "center-crop", "letterbox", "native"] = "stretch"
    """Images of other proportions: stretched, cut to their middle, or put whole on black; `native`: all images
    have the same proportions and keep them, at as many pixels as that square has."""
    range: tuple[float, float] | None = None
    """Values of black and white in images of more than 8 bits, such as [0, 4095]; unset: [0, 65535]."""
    known_defects: str = ""
    """Folder of 1 to 10 images of known defects, in sub-folders named after their kinds, that training keeps
    far from the good ones; results are then no longer one-class."""
    on_error: Literal["skip", "fail"] = "skip"
    """What to do about an image that cannot be read."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """Share of unreadable images up to which they are skipped."""
    allow_leak: bool = False
    """Whether the same image, or group, may be in train and in test."""
    augment: tuple[dict[str, dict[str, Any]], ...] = ()
    """Further albumentations transforms, of training images alone, such as [{RandomRain: {p: 0.5}}]."""
    val_share: Share = 0.15
    """Share of the normal training images held back to see forgetting."""
    calibration_share: Share = 0.15
    """Share of the normal training images held back to set the decision threshold."""

    @field_validator("range")
    @classmethod
    def _rises(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits and limits[0] >= limits[1]:
            raise ValueError(f"expected [black, white] with black < white, got {list(limits)}")
        return limits

    @field_validator("augment")
    @classmethod
    def _one_each(cls, augment: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        if any(len(step) != 1 for step in augment):
            raise ValueError("expected one {name: settings} for each transform")
        return augment

    @field_validator("root", "manifest", "known_defects")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        demo = info.field_name == "root" and name.startswith("demo:")
        checked = name and not demo and info.context and info.context["check_root"]
        kinds = {"root": Path.exists, "manifest": Path.is_file, "known_defects": Path.is_dir}
        if checked and not is_there(name, kinds[str(info.field_name)]):
            raise ValueError(f"{'file' if info.field_name == 'manifest' else 'folder'} does not exist: {name}")
        return name

    @model_validator(mode="after")
    def _leave_some_to_fit(self) -> "Data":
        if self.val_share + self.calibration_share > 0.8:
            raise ValueError("expert.data.val_share and calibration_share together may take at most 0.8")
        return self


class Encoder(Section):
    """The pretrained encoder, and which of its blocks train."""

    name: str = Field(default="tf_efficientnet_lite0", min_length=1)
    """A timm model name; of a filter also `pixels`: the image itself, nothing pretrained."""
    weights: str = Field(default="auto", min_length=1)
    """`auto` (an installed package, else hub), `hub`, `package`, `random`, `local-dir:FOLDER`, or a file."""
    levels: Literal["all"] | tuple[str | int, ...] = "all"
    """Levels to measure at: module names or indices."""
    train_blocks: Literal["all"] | tuple[str, ...] = "all"
    """Modules whose parameters are fine-tuned. What comes before them is computed once for each
    image in validation, and in training too where images are not varied."""
    adapt: Literal["full", "lora"] = "full"
    """`full`: these parameters themselves; `lora`: a product of low rank beside each of their linear layers and
    1 x 1 convolutions, which is kept instead of an encoder that can be had again (`pip install peft`)."""
    rank: int = Field(default=8, ge=1, le=256)
    """Rank of `adapt: lora`."""


class GaussianSection(Section):
    """How Gaussian statistics are fitted, and which score decides."""

    score: Literal["pooled", "dense", "fused"] = "fused"
    """The score that decides; it is what validation watches. All three are reported."""
    position: Literal["auto", "fixed", "free"] = "auto"
    """`fixed`: the same place shows the same part in every image; `free`: your parts lie in different places,
    so what one place holds says nothing about another image; `auto`: validation finds out before training."""
    shrinkage: Literal["ledoit_wolf"] | Annotated[float, Field(ge=0, le=1)] = "ledoit_wolf"
    """Covariance estimator, or a fixed shrinkage towards the scaled identity."""
    dense_levels: Literal["auto"] | tuple[str | int, ...] = "auto"
    """Levels of the dense score; `auto`: all at stride 16 and the first at stride 32."""
    grid: int = Field(default=12, ge=2, le=64)
    """Positions along each side at which the dense score is measured; images that are no squares have as many
    in all."""
    smoothing: float = Field(default=0.0, ge=0, le=10)
    """Standard deviation, in grid positions, with which distances are smoothed before the largest is taken."""
    variance_floor: float = Field(default=0.1, ge=0, le=1)
    """Variance added at every position of both grids, as a share of the mean variance."""
    dense_dimensions: int = Field(default=256, ge=1, le=4096)
    """Channels at most at each position; of more a random choice is kept. Memory grows with the square."""
    dense_weight: float = Field(default=5.0, ge=0)
    """What the dense score counts in the fused one; the pooled score counts 1."""
    level_weights: Literal["uniform"] | tuple[Annotated[float, Field(ge=0)], ...] = "uniform"
    """What each level counts for in the pooled score."""
    statistics: Literal["pretrained", "refit"] = "refit"
    """Gaussians of the detector: of the pretrained encoder, or of the fine-tuned one; they judge epochs."""
    keep_sums: bool = True
    """Whether the sums behind refit statistics are kept beside the detector, which `update` adds to."""
    robust: bool = False
    """Whether training images that stand out are left out of the run; the threshold then promises less."""

    @model_validator(mode="after")
    def _smooth_within_the_grid(self) -> "GaussianSection":
        if math.ceil(3 * self.smoothing) >= self.grid:  # the blur reaches so far, mirrored at the border
            raise ValueError(
                f"expert.gaussian.smoothing {self.smoothing:g} is too wide for a grid of {self.grid} positions"
            )
        return self


class Objective(Section):
    """The fine-tuning loss."""

    distance: Literal["mahalanobis", "squared_mahalanobis"] = "mahalanobis"
    """What is averaged over normal images and minimised."""
    target: Literal["pooled", "dense", "joint"] = "pooled"
    """Distance of the pooled features, of the features at each position, or the mean of both."""
    floor: bool = True
    """Whether an image is pulled no nearer, at each level, than training images are on average before training;
    pooled features alone."""
    l2_sp: float = Field(default=0.0, ge=0)
    """Strength with which weights are held at their pretrained values."""
    distillation: float = Field(default=0.0, ge=0)
    """Strength with which features are held at those of the pretrained encoder."""
    teacher: str = ""
    """A timm model name: a larger encoder whose features, on your good images, the trained one learns to tell.
    It is used in training alone: run and exports hold its name and nothing else of it."""
    teacher_weights: str = Field(default="auto", min_length=1)
    """Where its weights come from, as `encoder.weights` has it."""
    teacher_levels: Literal["auto"] | tuple[str | int, ...] = "auto"
    """Its levels that teach; `auto`: those that its own dense score would take."""
    teacher_strength: float = Field(default=10.0, gt=0)
    """What the share of its features that the trained encoder does not tell counts in the loss."""

    @field_validator("teacher")
    @classmethod
    def _knows_more(cls, teacher: str) -> str:
        if teacher == PIXELS:
            raise ValueError("pixels is no encoder and teaches nothing; name a timm model")
        return teacher

    @model_validator(mode="after")
    def _set_up_a_teacher_that_is_there(self) -> "Objective":
        names = ("teacher_weights", "teacher_levels", "teacher_strength")
        idle = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if idle and not self.teacher:
            raise ValueError(f"expert.objective.{idle[0]} is of objective.teacher; name one, or leave it out")
        return self


class Evaluation(Section):
    """What the threshold has to guarantee."""

    false_positive_rate: float = Field(default=0.01, gt=0, lt=1)
    """Share of normal images that the threshold may reject."""
    guarantee: Literal["average", "confidence"] = "average"
    """`average`: over many calibration sets; `confidence`: of this one, with 95 % confidence, which takes more
    of them: 59 held-out images for 5 %, 299 for 1 %."""


class Recipe(Section):
    """All settings of a run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Of the run and its folder."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the split, the pseudo-anomalies and the order of training images."""
    data: Data
    variation: VariationSection = VariationSection()
    encoder: Encoder = Encoder()
    gaussian: GaussianSection = GaussianSection()
    objective: Objective = Objective()
    validation: Validation = Validation()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    runtime: Runtime = Runtime()
    filter: FilterSection = Field(default=FilterSection(), validate_default=True)

    @property
    def watched(self) -> tuple[Augmentation, ...]:
        """The pseudo-anomalies of validation; those of `auto` that a filter's training does not use."""
        trained = self.filter.families() if self.model.kind == "filter" else set()
        if isinstance(self.validation.augmentations, str):
            return tuple(name for name in USUAL if not trained & set(SAME_AS_CORRUPTION.get(name, ())))
        return self.validation.augmentations

    @field_validator("objective", "schedule")
    @classmethod
    def _fit_adapters(cls, section: Objective | Schedule, info: ValidationInfo) -> Objective | Schedule:
        """Refuse what works on weights one by one: of an adapter two factors train, and what they are apart is
        no weight."""
        encoder = info.data.get("encoder")  # missing where it has mistakes of its own
        wrong = [name for name in ("l2_sp", "average") if getattr(section, name, False)]
        if encoder and encoder.adapt == "lora" and wrong:
            raise ValueError(f"{wrong[0]} is not for encoder.adapt: lora; leave it out, or set adapt: full")
        return section

    @field_validator("gaussian")
    @classmethod
    def _count_no_padding(cls, gaussian: GaussianSection, info: ValidationInfo) -> GaussianSection:
        """Refuse one Gaussian of all places where some of them are black borders."""
        data = info.data.get("data")  # missing where it has mistakes of its own
        if data and data.resize == "letterbox" and gaussian.position == "free":
            raise ValueError(
                "position: free counts all places alike, so the black border of data.resize: letterbox would "
                "be one of them; set data.resize to native, center-crop or stretch, or gaussian.position "
                "to fixed"
            )
        return gaussian

    @field_validator("validation")
    @classmethod
    def _tell_benign_from_wrong(cls, validation: Validation, info: ValidationInfo) -> Validation:
        """Refuse a pseudo-anomaly that is the same thing as a benign variation."""
        variation = info.data.get("variation")  # missing where it has mistakes of its own
        benign = variation.strengths() if variation else {}
        both = {name: [c for c in SAME_AS.get(name, ()) if c in benign] for name in validation.named()}
        clashes = [f"{name} (as variation.{', variation.'.join(same)})" for name, same in both.items() if same]
        if clashes:
            raise ValueError(
                f"augmentations: {'; '.join(clashes)}: what is benign cannot be a pseudo-anomaly; take it out "
                "of one of them (a strength of 0 switches a variation off)"
            )
        return validation

    @field_validator("filter")
    @classmethod
    def _fit_the_kind(cls, section: FilterSection, info: ValidationInfo) -> FilterSection:
        """Refuse what the kind of model cannot have, and a filter that is watched by what it was trained on."""
        if mistake := what_does_not_fit(section, info.data):
            raise ValueError(mistake)
        return section

    def to_yaml(self) -> str:
        """Write the whole recipe as YAML, defaults filled in; `read_recipe` of it gives an equal object."""
        tree: dict[str, Any] = {EXPERT: {}}
        for key, value in self.flat().items():
            *path, name = key.split(".")
            section = tree
            for part in path:
                section = section.setdefault(part, {})
            section[name] = value
        tree[EXPERT] = tree.pop(EXPERT)  # to the end of the file
        return OmegaConf.to_yaml(OmegaConf.create(tree))

    def flat(self) -> dict[str, Any]:
        """List every setting under its dotted key, such as `optimizer.lr` and `expert.optimizer.name`."""
        settings = self.model_dump(mode="json")
        return {
            key: settings[section][name] if section else settings[name]
            for key, (section, name) in places(type(self)).items()
        }
