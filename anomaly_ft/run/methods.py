"""Make the method of a run, by the kind of model that the recipe asks for."""

from collections.abc import Callable

from anomaly_ft.data.corruption import Corruption, read_textures
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.methods.filter import FilterMethod
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.model.filter.net import dilations_of, sides_of
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.filter.space import place_of
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.training import position_of


def gaussian_method(setup: Setup) -> GaussianMethod:
    """Make the method that fine-tunes an encoder towards Gaussians of its features."""
    section = setup.recipe.objective
    penalties = {"l2_sp": section.l2_sp, "distillation": section.distillation}
    method = GaussianMethod(
        setup.encoder,
        setup.compute,
        setup.detector_settings(),
        setup.inputs,
        section.distance,
        section.target,
        {name: strength for name, strength in penalties.items() if strength},
        setup.recipe.gaussian.statistics,
    )
    if setup.recipe.gaussian.position == "auto" and not setup.position:
        method.choose = lambda heads: position_of(setup, heads, method.score)
    return method


def filter_method(setup: Setup) -> FilterMethod:
    """Make the method that trains a filter.

    Raises:
        DataError: textures that are missing or cannot be read.
        EncoderError: levels that are none, or a net that reaches farther than images of this size let it.
    """
    recipe, section = setup.recipe, setup.recipe.filter
    corruption = Corruption(
        section.shapes,
        section.fillings,
        section.clean_share,
        section.noise,
        recipe.seed,
        read_textures(section.textures, recipe.data.image_size),
    )
    settings = filter_settings(setup)
    _, grid, _ = place_of(setup.encoder, settings)
    dilations_of(sides_of(grid)[-1], settings.reach)  # refuses a reach that does not fit
    method = FilterMethod(
        setup.encoder, setup.compute, settings, setup.inputs, corruption, section.clean_weight
    )
    if recipe.gaussian.position == "auto" and not setup.position:
        method.choose = lambda heads: position_of(setup, heads, method.score)
    return method


def filter_settings(setup: Setup) -> FilterSettings:
    """Translate the recipe's settings of a filter, with the position that was chosen."""
    section, gaussian = setup.recipe.filter, setup.detector_settings()
    return FilterSettings(
        levels=section.levels,
        grid=0 if section.grid == "auto" else section.grid,
        dimensions=section.dimensions,
        width=section.width,
        reach=0 if section.reach == "auto" else section.reach,
        skips=section.skips,
        smoothing=section.smoothing,
        top=section.top,
        shrinkage=gaussian.shrinkage,
        variance_floor=gaussian.variance_floor,
        position=gaussian.position,
        seed=setup.recipe.seed,
    )


# by kind of model
METHODS: dict[str, Callable[[Setup], Method]] = {"gaussian": gaussian_method, "filter": filter_method}


def make_method(setup: Setup) -> Method:
    """Make the method that the recipe asks for.

    Raises:
        AnomalyFtError: what it needs is not there.
    """
    return METHODS[setup.recipe.model.kind](setup)
