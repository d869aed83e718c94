"""Options of commands with many files: on which cluster the files are worked on.

Alone here: how a cluster is named on the command line. Invariant: without the options, nothing of
a cluster is loaded or needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..cluster import ClusterExecutor

__all__ = ["cluster_options", "open_executor"]

_SCHEDULER = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Spread the files over the workers of a Dask cluster: the address of its scheduler, "
    "tcp://host:port, or its scheduler file. Paths have to lead to the same files everywhere.",
)
_CLUSTER = click.option(
    "--cluster",
    metavar="local:N",
    help="Spread the files over N processes of this machine, of one thread each.",
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters `scheduler` and `cluster`, texts or None."""
    return _SCHEDULER(_CLUSTER(command))


@contextmanager
def open_executor(scheduler: str | None, cluster: str | None) -> Iterator[ClusterExecutor | None]:
    """Connect to the cluster that was named; None: none was.

    Raises
    ------
    click.UsageError
        Both were.
    MissingLibraryError, ClusterError, UsageError
        As for `dcwrite.cluster.connected`.
    """
    if scheduler is None and cluster is None:
        yield None
        return
    if scheduler is not None and cluster is not None:
        raise click.UsageError("--scheduler and --cluster exclude each other; pass one of them")
    from ..cluster import connected  # noqa: PLC0415 - only where a cluster is asked for

    with connected(scheduler=scheduler, cluster=cluster) as executor:
        yield executor
