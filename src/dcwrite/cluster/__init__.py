"""Work on many machines: one recording from many workers, and many files on a Dask cluster.

Alone here: dask and distributed, which are imported when they are needed (extra `cluster`).
Invariant: what comes out does not depend on the number of workers, nor on which of them were lost.
"""

from __future__ import annotations

from .connect import connected
from .executor import ClusterExecutor
from .recording import ClusterSummary, write_recording

__all__ = ["ClusterExecutor", "ClusterSummary", "connected", "write_recording"]
