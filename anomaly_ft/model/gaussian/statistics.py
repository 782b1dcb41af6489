"""Gaussian statistics: fitted in one streaming pass, merged across workers, and distances to them.

Pure tensors in, pure tensors out: no files, no encoder. Leading axes of a feature tensor after the
first are *groups* that each get a Gaussian of their own (none for pooled features, one for each
grid position for dense ones), so both kinds share one estimator.

Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
Journal of Multivariate Analysis 88 (2004), is usually written over stored features. Here it is
computed from sums, taken about a fixed shift near the mean so that nothing cancels:
n, sum z, sum z z^T, sum |z|^2 z and sum |z|^4, with z = x - shift.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_ft.errors import DivergedError, GaussianError
from anomaly_ft.model.gaussian.settings import Shrinkage

GROUPS = 16  # fitted at a time


@dataclass
class Moments:
    """Sums over `count` feature vectors about `shift`, float64: `(*groups, d)` and `(*groups, d, d)`."""

    count: int
    shift: Tensor  # (*groups, d)
    first: Tensor  # sum z            (*groups, d)
    second: Tensor  # sum z z^T       (*groups, d, d)
    third: Tensor  # sum |z|^2 z      (*groups, d)
    fourth: Tensor  # sum |z|^4       (*groups,)

    def absorb(self, features: Tensor) -> None:
        """Add a batch of features `(n, *groups, d)` in place: no second `d` by `d` matrix for every group.

        Groups of float32 features are multiplied in float32, twice as fast, and added up in float64: their
        Gaussians are given in float32 anyway.
        """
        exact = features.dtype != torch.float32 or features.dim() == 2
        features = features.detach().to(self.shift.device)
        z = features.double() - self.shift if exact else features - self.shift.float()
        d = z.shape[-1]
        grouped = z.movedim(0, -2).reshape(-1, len(z), d)  # (all groups, n, d)
        square = _dot(grouped, grouped)
        second = self.second.view(-1, d, d)
        if exact:
            second.baddbmm_(grouped.mT, grouped)
        else:
            for start in range(0, len(grouped), GROUPS):
                some = grouped[start : start + GROUPS]
                second[start : start + GROUPS] += some.mT @ some
        self.count += len(z)
        self.first += grouped.sum(1).view_as(self.first)
        self.third += (square[:, None] @ grouped).view_as(self.third)
        self.fourth += square.double().square().sum(1).view_as(self.fourth)

    def to(self, device: torch.device) -> "Moments":
        """Move the sums to a device."""
        tensors = (self.shift, self.first, self.second, self.third, self.fourth)
        return Moments(self.count, *(tensor.to(device) for tensor in tensors))

    def split(self, size: int) -> Iterator["Moments"]:
        """Split the sums into `size` groups at a time, views of these."""
        d, total = self.shift.shape[-1], self.fourth.numel()
        flat = (
            self.shift.view(-1, d),
            self.first.view(-1, d),
            self.second.view(-1, d, d),
            self.third.view(-1, d),
        )
        for start in range(0, total, size):
            shift, first, second, third = (tensor[start : start + size] for tensor in flat)
            yield Moments(self.count, shift, first, second, third, self.fourth.view(-1)[start : start + size])

    def about(self, shift: Tensor) -> "Moments":
        """Move the sums to another `shift`: every term of |z + a|^k written out."""
        a = self.shift - shift
        n, aa = self.count, _dot(a, a)
        power = self.second.diagonal(dim1=-2, dim2=-1).sum(-1)  # sum |z|^2
        a_first = _dot(a, self.first)
        second_a = (self.second @ a[..., None])[..., 0]
        cross = a[..., :, None] * self.first[..., None, :]
        return Moments(
            count=n,
            shift=shift,
            first=self.first + n * a,
            second=self.second + cross + cross.mT + n * a[..., :, None] * a[..., None, :],
            third=self.third
            + 2 * second_a
            + aa[..., None] * self.first
            + (power + 2 * a_first + n * aa)[..., None] * a,
            fourth=self.fourth
            + 4 * _dot(a, second_a)
            + n * aa**2
            + 4 * _dot(a, self.third)
            + 2 * aa * power
            + 4 * aa * a_first,
        )

    def all_reduce_sum(self, add: Callable[[Tensor], Tensor]) -> "Moments":
        """Sum over what several processes saw.

        Args:
            add: the sum of a tensor over all processes, in every one of them.
        """
        count = add(torch.tensor(float(self.count), dtype=torch.float64, device=self.shift.device))
        shift = add(self.shift * self.count) / count
        local = self.about(shift)
        sums = (add(t) for t in (local.first, local.second, local.third, local.fourth))
        return Moments(int(count), shift, *sums)

    def __add__(self, other: "Moments") -> "Moments":
        """Add the sums of two sets of features; exact, in any order, up to rounding."""
        other = other.about(self.shift)
        return Moments(
            count=self.count + other.count,
            shift=self.shift,
            first=self.first + other.first,
            second=self.second + other.second,
            third=self.third + other.third,
            fourth=self.fourth + other.fourth,
        )


@dataclass(frozen=True)
class Gaussian:
    """A multivariate Gaussian, or one for each group.

    `mean` is `(*groups, d)`; `whitening` is `(*groups, d, d)`, the inverse of the covariance's lower
    Cholesky factor, so that |whitening (x - mean)|^2 is the squared Mahalanobis distance;
    `shrinkage` is `(*groups,)`, in [0, 1]; `count` images were fitted.
    """

    mean: Tensor
    whitening: Tensor
    shrinkage: Tensor
    count: int


def moments(features: Tensor) -> Moments:
    """Sum over one batch of features `(n, *groups, d)`, about the batch's own mean, in float64."""
    shift = in_double(features.detach()).mean(0).to(features.dtype).double()  # exact in the features' precision
    zero = torch.zeros_like(shift)
    second = zero.new_zeros(*shift.shape, shift.shape[-1])
    sums = Moments(0, shift, zero, second, zero.clone(), zero.new_zeros(shift.shape[:-1]))
    sums.absorb(features)
    return sums


def accumulate(batches: Iterable[list[Tensor]]) -> list[Moments]:
    """Accumulate one `Moments` for each entry of a batch from a stream of batches; O(d^2) memory whatever
    their number.

    Raises:
        GaussianError: no batch at all.
    """
    totals: list[Moments] = []
    for batch in batches:
        if not totals:
            totals = [moments(features) for features in batch]
            continue
        for total, features in zip(totals, batch, strict=True):
            total.absorb(features)
    if not totals:
        raise GaussianError("cannot fit a Gaussian to no images at all")
    return totals


def fit(
    sums: Moments,
    shrinkage: Shrinkage = "ledoit_wolf",
    *,
    floor: float = 0.0,
    name: str = "features",
    dtype: torch.dtype = torch.float64,
) -> Gaussian:
    """Fit the Gaussian of the features summed up in `sums`; computed in float64, given in `dtype`.

    Groups are taken a few at a time, so that beside the sums and the result little memory is needed.

    Agrees with `sklearn.covariance.LedoitWolf` or, for a number, with
    `sklearn.covariance.shrunk_covariance` of the empirical covariance.

    Args:
        sums: what was seen.
        shrinkage: the estimator, or an intensity in [0, 1].
        floor: variance added in every direction, as a share of the mean variance over groups and
            dimensions; without it a position that hardly varies (a saturated background) makes an
            anomaly of any noise.
        name: what the features are called in an error.
        dtype: of mean and whitening.

    Raises:
        GaussianError: features that do not vary, or are too few for the estimator.
        DivergedError: features that are not finite.
    """
    squares = sums.second.diagonal(dim1=-2, dim2=-1) / sums.count
    least = floor * float((squares - (sums.first / sums.count) ** 2).mean())
    if sums.shift.dim() == 1:
        return _fit(sums, shrinkage, least, name, dtype)
    groups, d = sums.shift.shape[:-1], sums.shift.shape[-1]
    parts = [_fit(part, shrinkage, least, name, dtype) for part in sums.split(GROUPS)]
    return Gaussian(
        torch.cat([part.mean for part in parts]).view(*groups, d),
        torch.cat([part.whitening for part in parts]).view(*groups, d, d),
        torch.cat([part.shrinkage for part in parts]).view(*groups),
        sums.count,
    )


def _fit(sums: Moments, shrinkage: Shrinkage, least: float, name: str, dtype: torch.dtype) -> Gaussian:
    """Fit the Gaussian with `least` added to the variance in every direction."""
    centred = sums.about(sums.shift + sums.first / sums.count)
    n, d = centred.count, centred.shift.shape[-1]
    covariance = centred.second / n
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)  # mean variance, the shrinkage target
    _check(centred, scale + least, shrinkage, name)
    if isinstance(shrinkage, str):
        rho = _ledoit_wolf(centred, covariance, scale)
    else:
        rho = torch.full_like(scale, shrinkage)
    covariance = (1 - rho)[..., None, None] * covariance
    covariance.diagonal(dim1=-2, dim2=-1).add_((rho * scale + least)[..., None])
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info != 0).any()):
        raise GaussianError(
            f"{name}: the covariance of {n} images in {d} dimensions is not positive definite "
            f"(shrinkage {float(rho.min()):.3g}); raise expert.gaussian.shrinkage or use more images"
        )
    return Gaussian(centred.shift.to(dtype), _whitening(factor).to(dtype), rho, n)


def squared_distance(features: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Compute the squared Mahalanobis distance of `(n, *groups, d)` features, `(n, *groups)`; higher = more
    anomalous.

    Differentiable in `features`; runs in the precision of `mean` and `whitening`, float32 or better,
    whatever autocast is active.
    """
    with torch.autocast(features.device.type, enabled=False):
        white = whitening @ (features.to(mean.dtype) - mean).movedim(0, -1)  # (*groups, d, n)
        return white.square().sum(-2).movedim(-1, 0)


def squared_distances(features: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Compute the squared Mahalanobis distance of features `(n, positions, d)` at each position `(n,
    positions)`, to its own Gaussian, mean `(positions, d)`, or to the one of all, mean `(d,)`."""
    distances = squared_distance(features.reshape(-1, *mean.shape), mean, whitening)
    return distances.view(features.shape[:2])


def _ledoit_wolf(centred: Moments, covariance: Tensor, scale: Tensor) -> Tensor:
    """Estimate the shrinkage intensity, Ledoit and Wolf (2004), equation 14 with the estimators of lemmas
    3.2-3.4."""
    n, d = centred.count, covariance.shape[-1]
    frobenius = covariance.square().sum((-2, -1))
    dispersion = (frobenius - d * scale**2) / d
    error = (centred.fourth / n - frobenius) / (d * n)
    error = torch.minimum(error, dispersion).clamp_min(0)
    return torch.where(error > 0, error / dispersion, torch.zeros_like(error))


def _check(centred: Moments, scale: Tensor, shrinkage: Shrinkage, name: str) -> None:
    n, d = centred.count, centred.shift.shape[-1]
    if not math.isfinite(float(scale.sum())) or not math.isfinite(float(centred.fourth.sum())):
        raise DivergedError(f"{name}: the features of {n} images are not finite")
    needed = 2 if isinstance(shrinkage, str) or shrinkage > 0 else d + 1
    if n < needed:
        mend = "use more images"
        if needed > 2:
            mend = "use shrinkage (expert.gaussian.shrinkage: ledoit_wolf) or more images"
        raise GaussianError(
            f"{name}: cannot fit a full Gaussian to {n} image{'s' if n != 1 else ''} in {d} dimensions, "
            f"at least {needed} are needed; {mend}"
        )
    if bool((scale <= 0).any()):
        raise GaussianError(
            f"{name}: the features of all {n} images are the same; are the images copies of one another?"
        )


def _whitening(factor: Tensor) -> Tensor:
    """Invert lower triangular matrices."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.contiguous()  # as it comes back from a file: products round by how a matrix lies in memory


def in_double(tensor: Tensor) -> Tensor:
    """Convert to float64; on the processor where the device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
