"""The optional library: whether it is there, and what to do if not.

Alone here: the name of the extra. Invariant: without it, everything but the cluster works.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import MissingLibraryError

__all__ = ["require_distributed"]


def require_distributed() -> None:
    """Refuse to go on without Dask's scheduler.

    Raises
    ------
    MissingLibraryError
        `distributed` is not installed.
    """
    if find_spec("distributed") is None:
        raise MissingLibraryError(
            "working on a cluster needs the library 'distributed', which is not installed; "
            "install it with: pip install 'dcwrite[cluster]'"
        )
