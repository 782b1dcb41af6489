"""Delete a finished run: its folder and its run in MLflow."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from anomaly_ft.errors import RunError
from anomaly_ft.run.folder import locked_run
from anomaly_ft.run.open import open_summary, store_of_run
from anomaly_ft.system.addresses import without_password
from anomaly_ft.tracking.model_registry import delete_run, registered_versions


@dataclass(frozen=True)
class Doomed:
    """A run that can go: its folder, the bytes it takes, and where it is in MLflow, if it is."""

    folder: Path
    size: int
    run_id: str | None = None
    uri: str = ""

    def __str__(self) -> str:
        text = f"{self.folder} ({self.size / 2**20:.0f} MiB)"
        return text + (f" and run {self.run_id} in {without_password(self.uri)}" if self.run_id else "")


def find_doomed(folder: Path, uri: str | None) -> Doomed:
    """Find what goes with a run, and refuse one that the registry needs.

    Args:
        folder: of the run.
        uri: MLflow store; unset: that of the recipe, else MLFLOW_TRACKING_URI, else the database beside it.

    Raises:
        RunError: no finished run, a registered model is its detector, or the store is not there.
    """
    run_id = open_summary(folder).mlflow_run_id
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if run_id is None:
        return Doomed(folder, size)
    store = store_of_run(folder, uri)
    if versions := registered_versions(store, run_id):
        raise RunError(
            f"{folder}: {', '.join(versions)} in MLflow's registry is its detector; give the alias to another "
            "run with anomaly-ft promote, and delete that version on MLflow's page, or keep the run"
        )
    return Doomed(folder, size, run_id, store)


def delete(doomed: Doomed) -> None:
    """Delete a run in MLflow, then its folder.

    Raises:
        RunError: another command is changing it, or MLflow refuses.
        OSError: the folder cannot be removed.
    """
    with locked_run(doomed.folder):
        if doomed.run_id:
            delete_run(doomed.uri, doomed.run_id)
        place = doomed.folder.resolve()
        going = place.rename(place.with_name(f".{place.name}.old"))  # from here on nobody takes it for a run
        shutil.rmtree(going)
