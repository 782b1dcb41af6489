"""How much memory this process has taken."""

import sys


def peak_memory() -> int | None:
    """Read the most bytes that this process has held in memory; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
