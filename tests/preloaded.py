"""What every forked command finds imported and computed already; see `lives`."""

import git  # noqa: F401
from mlflow.utils import requirements_utils

import anomaly_ft.cli.train
import anomaly_ft.run.train  # noqa: F401

requirements_utils._init_packages_to_modules_map()  # reads the files of all installed packages, once
