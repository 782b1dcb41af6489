"""Score images on a Ray cluster: each worker loads the run once; rows come back in the order of the paths."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from anomaly_ft.data.images import Decoder
from anomaly_ft.errors import AnomalyFtError, RunError
from anomaly_ft.evaluation.appearance_shift import Seen
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.run.open import open_run
from anomaly_ft.run.predict import predict
from anomaly_ft.run.prediction_rows import Prediction
from anomaly_ft.run.ray_cluster import ray_cluster
from anomaly_ft.run.today import ImageWatch

PIECE = 128  # images that a worker is given at a time
AHEAD = 2  # pieces that wait for each worker, so that memory does not grow with the images
Piece = tuple[list[Prediction], Seen]


class Worker:
    """A process of the cluster that holds a run."""

    def __init__(self, folder: Path, decoder: Decoder, tile: tuple[int, int] | None) -> None:
        self.run = replace(open_run(folder)[1], decoder=decoder, tile=tile)

    def score(self, paths: list[Path], maps: bool) -> Piece:
        """Score a piece of the images, and measure how they look."""
        watch = ImageWatch(self.run.folder)
        return list(predict(self.run, paths, maps=maps, look=watch.look)), watch.seen


def score_on_ray(
    run: LoadedRun, paths: Iterable[Path], maps: bool, watch: ImageWatch, *, address: str | None = None
) -> Iterator[Prediction]:
    """Score with a worker for each processor of a cluster, each graphics processor where it has any.

    Args:
        run: its folder, and the images, lie where all machines of the cluster see them.
        paths: drawn from no further ahead than workers are given work ahead.
        maps: whether predictions carry a map.
        watch: is told how the images look.
        address: of a cluster; unset: a local one.

    Raises:
        RunError: no cluster, or a worker that died.
    """
    with ray_cluster(address) as there:
        import ray

        kind = "num_gpus" if there.get("GPU", 0) >= 1 else "num_cpus"
        count = max(1, int(there.get("GPU", 0)) or int(there.get("CPU", 1)))
        make = ray.remote(Worker).options(**{kind: 1})
        workers = [make.remote(run.folder.resolve(), run.decoder, run.tile) for _ in range(count)]
        remaining, turns = iter(paths), cycle(workers)
        waiting: deque[tuple[list[Path], Any]] = deque()
        while True:
            while len(waiting) < AHEAD * count:
                piece = list(islice(remaining, PIECE))
                if not piece:
                    break
                waiting.append((piece, next(turns).score.remote([path.absolute() for path in piece], maps)))
            if not waiting:
                return
            asked, answer = waiting.popleft()
            predictions, seen = _answer(answer)
            watch.seen.join(seen)
            for path, prediction in zip(asked, predictions, strict=True):
                yield replace(prediction, path=str(path))


def _answer(reference: Any) -> Piece:
    import ray

    try:
        piece: Piece = ray.get(reference)
    except ray.exceptions.RayTaskError as failed:
        if isinstance(failed.cause, AnomalyFtError):
            raise failed.cause from None
        raise
    except ray.exceptions.RayError as cause:  # the worker's process is gone
        raise RunError(
            f"--engine ray: a worker died ({str(cause).splitlines()[0]}); rows that were written stay, and "
            "--output with --resume goes on from them"
        ) from cause
    return piece
