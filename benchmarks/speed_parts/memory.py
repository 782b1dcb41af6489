"""Peak memory of this process."""

import resource
from contextlib import suppress
from pathlib import Path


def peak_mib() -> float:
    """Of this process alone; `getrusage` also counts what the parent held when it started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """Let the peak be what is held now, where the system can; elsewhere it stays that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
