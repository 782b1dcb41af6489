"""Executors of the runs of a sweep: one after another in this process, or on Ray.

Whatever happens to one run, the others go on; what happened is its outcome.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_ft.errors import AnomalyFtError, RunError
from anomaly_ft.recipe.sweep import Job, Resources
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.ray_cluster import ray_cluster
from anomaly_ft.run.resume import refuse_changes, unfinished
from anomaly_ft.run.run_summary import FinishedRun
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import train


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its finished run, or why there is none."""

    job: Job
    run: FinishedRun | None
    error: str = ""  # for people
    trace: str = ""  # for those who look for the bug


def run_job(job: Job, output: Path, tags: Mapping[str, str]) -> Outcome:
    """Train one run, its folder in `output`, its MLflow run under these tags. Raises nothing but
    interrupts."""
    try:
        tags_of_run = {
            "sweep.category": job.category,
            "sweep.setting": job.setting,
            "seed": str(job.recipe.seed),
        }
        setup = prepare(job.recipe, Terminal())
        return Outcome(
            job, train(setup, output, unfinished=_begun(setup, output), tags={**tags, **tags_of_run})
        )
    except AnomalyFtError as error:
        return Outcome(job, None, str(error), traceback.format_exc())
    except Exception as error:  # a bug, or the machine, in one run of many
        return Outcome(job, None, f"{type(error).__name__}: {error}", traceback.format_exc())


def _begun(setup: Setup, output: Path) -> Path | None:
    """Find what an interrupted sweep left of this run, where it can be resumed."""
    try:
        partial = unfinished(output, setup.recipe.name)
        refuse_changes(partial, setup)
    except RunError:
        return None
    return partial


def in_process(jobs: Sequence[Job], output: Path, tags: Mapping[str, str]) -> Iterator[Outcome]:
    """Train one run after another in this process."""
    for job in jobs:
        yield run_job(job, output, tags)


def on_ray(
    jobs: Sequence[Job],
    output: Path,
    tags: Mapping[str, str],
    *,
    address: str | None = None,
    resources: Resources,
) -> Iterator[Outcome]:
    """Train as many runs at a time as the machines of a Ray cluster have room for; yields outcomes as they
    come.

    Args:
        jobs: the runs.
        output: a folder that all machines of the cluster see.
        tags: of the MLflow runs.
        address: of a cluster; unset: a local one, for as long as it takes.
        resources: what one run is given.

    Raises:
        RunError: Ray is not installed, not reached, or one run needs more than the local machine has.
    """
    waiting: list[Any] = []
    with ray_cluster(address) as present:
        import ray

        try:
            _refuse_too_much(resources, present, local=address is None)
            remote = ray.remote(run_job).options(
                num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0
            )
            of = {remote.remote(job, output, tags): job for job in jobs}
            waiting = list(of)
            while waiting:
                (ready,), waiting = ray.wait(waiting, num_returns=1)
                try:
                    outcome: Outcome = ray.get(ready)
                except ray.exceptions.RayError as cause:  # the worker process is gone
                    error = f"the worker died: {str(cause).splitlines()[0]}"
                    outcome = Outcome(of[ready], None, error, str(cause))
                yield outcome
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)


def _refuse_too_much(resources: Resources, present: Mapping[str, float], *, local: bool) -> None:
    """Refuse resources that a local machine does not have: it will not grow, and runs would wait for ever."""
    for key, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if local and wanted > present.get(key, 0):
            raise RunError(
                f"resources: a run wants {wanted:g} {key}, this machine has {present.get(key, 0):g}; "
                "lower it, or name a cluster with --address"
            )
