"""Mix pretrained and fine-tuned weights, the share chosen by validation."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from anomaly_ft.finetune.brakes.weight_average import put_weights, trained_weights
from anomaly_ft.finetune.early_stopping import StoppingRule, early_stop
from anomaly_ft.finetune.records import Validation


def interpolate(
    module: nn.Module,
    pretrained: Mapping[str, Tensor],
    shares: Sequence[float],
    validate: Callable[[], Validation],
    rule: StoppingRule,
    ends: tuple[Validation, Validation],
) -> tuple[float, dict[float, Validation]]:
    """Leave in the module the mixture of pretrained and fine-tuned weights that validation chooses
    (WiSE-FT, Wortsman et al., CVPR 2022).

    The way from the pretrained to the fine-tuned weights is judged as epochs are: a mixture is kept if it is
    better than one nearer to the pretrained weights by more than noise.

    Args:
        module: holds the fine-tuned weights.
        pretrained: the weights before training.
        shares: of the fine-tuned weights, in (0, 1); 0 and 1 are always among the candidates.
        validate: measures the module as it is now.
        rule: its tolerance decides what counts as forgotten.
        ends: validations of the pretrained and of the fine-tuned weights, which are known already.

    Returns:
        The share kept, and the validation of each share.
    """
    tuned = trained_weights(module)

    def put_mixture(share: float) -> None:
        put_weights(module, {name: value.lerp(tuned[name], share) for name, value in pretrained.items()})

    validations = {0.0: ends[0]}
    for share in sorted(shares):
        put_mixture(share)
        validations[share] = validate()
    validations[1.0] = ends[1]
    kept = list(validations)[early_stop(list(validations.values()), rule).best_epoch]
    put_mixture(kept)
    return kept, validations
