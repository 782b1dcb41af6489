"""Reach a Ray cluster, which needs the package ray, for as long as there is work for it."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from anomaly_ft.errors import RunError


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Mapping[str, float]]:
    """Connect to a cluster inside the block; what it has to give, by kind (`CPU`, `GPU`).

    Args:
        address: of a cluster; unset: a local one, for as long as it takes.

    Raises:
        RunError: Ray is not installed, or not reached.
    """
    if importlib.util.find_spec("ray") is None:
        raise RunError("--engine ray: Ray is not installed; pip install ray")
    import ray

    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as cause:
        raise RunError(f"--address {address}: no Ray cluster can be reached: {cause}") from cause
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
