"""Fine-tune pretrained image encoders for visual anomaly detection without forgetting.

Nothing heavy is imported here: `import anomaly_ft` loads no torch; `anomaly_ft.features` does when first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "features":
        return importlib.import_module("anomaly_ft.deploy.features").features
    raise AttributeError(f"module 'anomaly_ft' has no attribute {name!r}")
