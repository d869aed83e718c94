"""Getting hold of a cluster: one that runs, or one of local processes that is ended afterwards.

Alone here: how a cluster is named and started. Invariant: what was started is ended, and listens
on the loopback address only.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final

from ..errors import ClusterError, UsageError
from ..tools.workers import interrupts_blocked
from .executor import ClusterExecutor
from .library import require_distributed

__all__ = ["connected", "local_workers"]

#: Processes on one machine.
MOST_LOCAL: Final = 1024
#: How long a scheduler may take to answer.
CONNECT_TIMEOUT_S: Final = 30
#: How long cancelled tasks on this machine may take to clean up.
CLEAN_UP_S: Final = 10
#: How long a local worker that was killed may take to be back: Python starts anew, on a busy
#: machine. Longer than that without any worker, and the cluster is lost.
RESTART_S: Final = 120


def local_workers(cluster: str) -> int:
    """Number of processes that "local:N" names.

    Raises
    ------
    UsageError
        It is not of this form.
    """
    found = re.fullmatch(r"local:(\d+)", cluster)
    if found is None or not 1 <= int(found[1]) <= MOST_LOCAL:
        raise UsageError(
            f"cluster: expected local:N with 1 to {MOST_LOCAL} processes, got {cluster!r}; name a "
            f"cluster that runs by the address of its scheduler (--scheduler)"
        )
    return int(found[1])


@contextmanager
def connected(
    *, scheduler: str | None = None, cluster: str | None = None, retries: int = 0
) -> Iterator[ClusterExecutor]:
    """Connect to a cluster.

    Parameters
    ----------
    scheduler
        Address of a scheduler that runs ("tcp://host:8786"), or the path of its scheduler file.
    cluster
        "local:N": N processes of one thread each are started here, and ended with the block.
    retries
        As for `ClusterExecutor`.

    Yields
    ------
    ClusterExecutor

    Raises
    ------
    UsageError
        Neither or both are given, or `cluster` is of another form.
    ClusterError
        No scheduler answers there.
    MissingLibraryError
        `distributed` is not installed.
    """
    if (scheduler is None) == (cluster is None):
        raise UsageError(
            "expected the address of a scheduler or a local cluster, got neither or both"
        )
    n_local = None if cluster is None else local_workers(cluster)
    require_distributed()
    if n_local is not None:
        with _local(n_local) as client:
            executor = ClusterExecutor(client, retries=retries)
            try:
                yield executor
            except BaseException:
                # its tasks were cancelled: processes that are killed cannot clean up
                executor.wait_for_cancelled(CLEAN_UP_S)
                raise
    else:
        with _client(str(scheduler)) as client:
            yield ClusterExecutor(client, retries=retries)


@contextmanager
def _local(n_workers: int) -> Iterator[Any]:
    import dask  # noqa: PLC0415 - an extra
    from distributed import Client, LocalCluster  # noqa: PLC0415

    patience = f"{RESTART_S} s"
    settings = {
        # else a worker that takes its time to restart is given up, and its nanny with it
        "distributed.deploy.lost-worker-timeout": patience,
        "distributed.scheduler.no-workers-timeout": patience,
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        prefix = "dcwrite-cluster-"
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        resource_tracker.ensure_running()  # its start would let signals through again
        with interrupts_blocked():  # Ctrl-C is for this process alone
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                local_directory=folder,
                silence_logs=logging.CRITICAL,  # errors come home, and are said once
            )
            stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    from distributed import Client  # noqa: PLC0415 - an extra

    is_file = scheduler.endswith(".json") or Path(scheduler).is_file()
    where: dict[str, Any] = {"scheduler_file" if is_file else "address": scheduler}
    try:
        client = Client(**where, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as exc:
        raise ClusterError(
            f"'{scheduler}': no Dask scheduler answers there ({exc}); check the address, and "
            f"that `dask scheduler` runs"
        ) from exc
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # errors come home, and are said once
    try:
        with client:
            yield client
    finally:
        logger.setLevel(level)
