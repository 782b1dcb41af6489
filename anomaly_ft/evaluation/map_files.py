"""Write maps over their images, as files for people and for programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.images import read_image
from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.pictures import LIMIT, REGION, ColourScale, outlined, overlay
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.maps import Map, upsample


def colour_scale(run: LoadedRun) -> ColourScale:
    """Make one scale for all maps of a run, see `Detector.colour_top`."""
    top = run.detector.colour_top()
    return ColourScale(top / 8, top)


@dataclass(frozen=True)
class MapFolder:
    """A folder that maps of a run's predictions are written to, all in the same colours."""

    run: LoadedRun
    folder: Path
    scale: ColourScale

    def write(self, path: Path, small: Map, number: int, regions: Sequence[NDArray[np.bool_]] = ()) -> str:
        """Write `NUMBER-STEM.npy`, the map at the image's own size in score units, float32, and the same
        drawn over the image as `NUMBER-STEM.png`; returns the name without ending.

        The white outline encloses what exceeds the map's limit, see `Detector.map_threshold`; a map without
        one has no outline. Blue ones enclose `regions (height, width)`.
        """
        image = np.asarray(read_image(path, self.run.decoder.value_range))
        height, width = image.shape[:2]
        large = upsample(small, height, width, self.run.decoder)
        limit = self.run.detector.map_threshold()
        drawn = overlay(image, large, self.scale)
        if limit is not None:
            drawn = outlined(drawn, large > limit, LIMIT)
        for region in regions:
            drawn = outlined(drawn, region, REGION)
        name = f"{number:06d}-{path.stem[:100]}"
        files = [self.folder / f"{name}.npy", self.folder / f"{name}.png"]
        try:
            with files[0].open("wb") as raw:
                np.lib.format.write_array(raw, large, allow_pickle=False)
            Image.fromarray(drawn).save(files[1])
        except OSError as cause:
            for file in files:
                file.unlink(missing_ok=True)
            raise RunError(
                f"--output: {files[0]} cannot be written ({cause}); the rows before it are there"
            ) from cause
        return name
