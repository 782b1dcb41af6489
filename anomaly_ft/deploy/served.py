"""The detector as MLflow serves it. MLflow runs this file to load a model (models from code): no pickle.

Asked for with a data frame whose column `image` holds paths, base64 of image files, or uint8 values
`(h, w, 3)` as arrays or lists; the parameter `map` asks for maps as well.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel

from anomaly_ft.deploy.inputs import to_pixels
from anomaly_ft.model.loading import load_run


class ServedDetector(PythonModel):  # type: ignore[misc]
    """Rows of images to rows of `score` (higher = more anomalous), `decision` and, if asked for, `map`."""

    def load_context(self, context: Any) -> None:
        """Load the detector: `context.artifacts` has its files, `context.model_config` how it computes."""
        folder = Path(context.artifacts["detector.json"]).parent
        self.run = load_run(folder, **(context.model_config or {}))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score images; `map` is `(height, width)` nested lists in score units, the encoder's image size.

        Raises:
            DataError: an image that cannot be read.
        """
        del context
        run, items = self.run, list(model_input["image"])
        pixels = [to_pixels(item, run.decoder) for item in items]
        scores, maps = np.empty(0), list[Any]()
        for images in run.compute.batches(np.stack(pixels)) if pixels else ():
            with run.detector.encoder.folded(), torch.inference_mode(), run.compute.fabric.autocast():
                outputs = run.detector(images)
            scores = np.concatenate([scores, outputs.scores.cpu().double().numpy()])
            maps += outputs.maps.float().cpu().tolist() if params and params.get("map") else []
        decisions = np.where(scores > run.point.threshold, "anomalous", "normal")
        answer = pd.DataFrame({"score": scores, "decision": decisions})
        return answer.assign(map=maps) if maps else answer


mlflow.models.set_model(ServedDetector())
