"""Which benign variation fits these parts: a proposal from what was seen between good training images.

Only what was seen is proposed, and a preset's strength is never lowered: tomorrow's images differ from one
another by what training images show, and by what a preset allows besides. A property that nothing was seen
of stays as the preset has it.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from anomaly_ft.data.checks.pose import SEEN, Pose

FEWEST = 8  # images; of fewer nothing is said
# Share of the pairs from which on turned, mirrored or shifted parts are no exception. On five real sets with
# one pose at most 0.24 of the pairs seemed turned, of as few as 8 images; turned by quarters 0.38 or more
OFTEN = 0.3
# Two images differ by so many times what one differs from its place: uniform ones by 1.55, normal ones by 1.4
PAIR_SPREAD = 1.5
SOME = 1 / 3  # share of the pairs that must match to speak of a pose
NEARLY_ALL = 0.8
TILT, QUARTER_WITHIN = 30.0, 10.0  # degrees
GRAIN, AGREEMENT = 0.3, 0.5  # strength from which on a texture has a grain, agreement below which it is turned
FLIPS = 0.5  # share of varied images, as the preset `free` has it
WARNING = (
    "What is called benign here the detector will no longer see: with brightness a faded print, with focus a "
    "blurred seal, with rotation a part that lies askew."
)
WIDTH = 100


@dataclass(frozen=True)
class Proposal:
    """Strengths to set beside a preset, and why.

    Attributes:
        preset: from which it departs.
        strengths: by name of the change; none where the preset fits as it is.
        why: a sentence for each of these.
        seen: what else was seen, or why nothing was.
    """

    preset: str
    strengths: dict[str, float]
    why: dict[str, str]
    seen: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Print the proposal for the terminal."""
        changes = ", ".join(f"{name} {strength:g}" for name, strength in self.strengths.items())
        yield f"varies    {self.preset}" + (f" with {changes}" if changes else "")
        for line in (*self.why.values(), *self.seen):
            yield from textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")

    def section(self, sheet: str = "") -> Iterator[str]:
        """Write the section of a recipe, with the reasons as comments.

        Args:
            sheet: file in which varied images can be looked at.
        """
        look = f" Look at {sheet}: are all of these good parts? If not, lower a strength; 0 is never."
        yield "variation:"
        yield from _comment(WARNING + (look if sheet else ""))
        for line in self.seen:
            yield from _comment(f"Seen: {line}")
        yield f"  preset: {self.preset}"
        for name, strength in self.strengths.items():
            yield from _comment(self.why[name])
            yield f"  {name}: {strength:g}"

    def to_json(self) -> dict[str, object]:
        """Give plain values, for programs."""
        return asdict(self)


def propose(
    pose: Pose | None,
    preset: str,
    strengths: Mapping[str, float],
    *,
    limits: Mapping[str, tuple[float, float]],
    image_size: int,
) -> Proposal:
    """Turn what was seen into strengths.

    Args:
        pose: of good training images; None where there are fewer than `FEWEST`.
        preset: name of the preset from which a recipe starts.
        strengths: of that preset.
        limits: lowest and highest strength of each change.
        image_size: side in pixels of the resized images, in which shifts are counted.
    """
    if pose is None:
        return Proposal(preset, {}, {}, (f"fewer than {FEWEST} good training images: nothing was compared",))
    wanted: dict[str, tuple[float, str]] = {}
    seen: list[str] = []
    if len(pose.angles) < SOME * pose.pairs:
        _of_a_texture(pose, wanted, seen)
    else:
        _of_a_part(pose, wanted, seen)
        _of_a_shift(pose, image_size, strengths.get("shift", 0.0), wanted, seen)
    _of_light(pose, strengths.get("brightness", 0.0), wanted, seen)
    kept = {
        name: (min(max(strength, limits[name][0]), limits[name][1]), why)
        for name, (strength, why) in wanted.items()
    }
    return Proposal(
        preset,
        {name: strength for name, (strength, _) in kept.items()},
        {name: why for name, (_, why) in kept.items()},
        tuple(seen),
    )


Wanted = dict[str, tuple[float, str]]


def _of_a_part(pose: Pose, wanted: Wanted, seen: list[str]) -> None:
    """Propose rotations of a part: at any angle, by quarters, a small tilt, or none; mirrored or not."""
    matching = len(pose.angles)
    turned = [abs(angle) for angle in pose.angles if angle]
    little = [angle for angle in turned if angle <= TILT]
    of_pairs = f"of {matching} pairs of images"
    often = len(turned) >= OFTEN * matching
    if not often:
        seen.append(f"one fixed pose: {matching - len(turned)} {of_pairs} match best as they lie")
        if pose.round:
            seen.append("round: the parts look much the same at every angle, so turns do not show")
    elif len(little) >= NEARLY_ALL * len(turned):
        tilt = math.ceil(_within([*little, *[0.0] * (matching - len(turned))]))
        far = len(turned) - len(little)
        why = f"{len(little)} {of_pairs} match best when turned a little, up to {max(little):.0f} degrees" + (
            f"; {far} when turned farther, which this leaves out" if far else ""
        )
        wanted["rotation"] = float(tilt), why
    elif sum(_from_quarter(angle) <= QUARTER_WITHIN for angle in turned) >= NEARLY_ALL * len(turned):
        why = f"{len(turned)} {of_pairs} match best when turned by quarters or halves"
        _by_quarters(pose, why, wanted, seen)
    else:
        why = f"{len(turned)} {of_pairs} match best when turned, at angles of all kinds"
        wanted["rotation"] = 180.0, why
    if pose.mirrored >= OFTEN * matching:
        alone = "" if often else "; this turns by quarters too, which was not seen"
        _by_quarters(pose, f"{pose.mirrored} {of_pairs} match best when mirrored{alone}", wanted, seen)


def _by_quarters(pose: Pose, why: str, wanted: Wanted, seen: list[str]) -> None:
    """Propose quarter turns. Flips mirror and turn by quarters, so that an elongated part would be pushed out
    of its image."""
    if pose.elongated:
        seen.append(f"{why}; no change does that to elongated images without turning them by quarters as well")
    else:
        wanted["flips"] = FLIPS, why + ("" if "mirrored" in why else "; this mirrors too")


def _within(differences: Sequence[float]) -> float:
    """What 95 % of images stay within, from the differences of pairs."""
    return float(np.quantile(differences, SEEN)) / PAIR_SPREAD


def _from_quarter(angle: float) -> float:
    return abs((angle + 45) % 90 - 45)


def _of_a_texture(pose: Pose, wanted: Wanted, seen: list[str]) -> None:
    """Propose rotations of a texture: without a common picture only the grain of all images can be
    compared."""
    strength, agreement = pose.grain
    none = f"{len(pose.angles)} of {pose.pairs} pairs of images match at any angle or place"
    if agreement >= AGREEMENT:
        seen.append(f"a texture lying one way: {none}, but fine structure runs in one direction in all images")
    elif strength < GRAIN:
        seen.append(f"no pose: {none}: a texture without a grain, or parts that differ")
    elif pose.grain_by_quarters >= AGREEMENT:
        _by_quarters(pose, "a texture whose grain is turned by quarters from image to image", wanted, seen)
    else:
        wanted["rotation"] = 180.0, "a texture whose grain runs in another direction in each image"


def _of_a_shift(pose: Pose, size: int, usual: float, wanted: Wanted, seen: list[str]) -> None:
    often = sum(shift > 0 for shift in pose.shifts) >= OFTEN * len(pose.shifts)
    pixels = _within(pose.shifts) * size if often else 0.0
    says = f"shift: parts lie within {pixels:.1f} pixels of their place, at {size} pixels"
    if pixels < 0.1:
        seen.append(f"shift: hardly any was seen; the preset has {usual:g}")
    elif pixels > usual:
        wanted["shift"] = float(math.ceil(pixels)), says
    else:
        seen.append(f"{says}; the preset has {usual:g}")


def _of_light(pose: Pose, usual: float, wanted: Wanted, seen: list[str]) -> None:
    says = f"brightness: 95% of {pose.images} images are within {pose.brightness:.0%} of their median"
    if pose.brightness > usual:
        wanted["brightness"] = math.ceil(100 * pose.brightness) / 100, says
    else:
        seen.append(f"{says}; the preset has {usual:.0%}")


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent="  # ", subsequent_indent="  # ")
