"""Translate the recipe's settings of a model into those that it is made with."""

from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.gaussian.settings import DetectorSettings, Position
from anomaly_ft.recipe.schema import Recipe


def detector_settings(recipe: Recipe, position: Position | None = None) -> DetectorSettings:
    """Translate the settings of the detector; `auto` positions are fixed until a `position` is chosen."""
    section = recipe.gaussian.model_dump(
        exclude={"statistics", "level_weights", "robust", "keep_sums", "position"}
    )
    weights, told = recipe.gaussian.level_weights, recipe.gaussian.position
    return DetectorSettings(
        **section,
        level_weights=() if isinstance(weights, str) else weights,
        position=position or ("fixed" if told == "auto" else told),
    )


def filter_settings(recipe: Recipe, position: Position | None = None) -> FilterSettings:
    """Translate the settings of a filter; positions and statistics as `detector_settings` has them."""
    section, gaussian = recipe.filter, detector_settings(recipe, position)
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
        seed=recipe.seed,
    )
