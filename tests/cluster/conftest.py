"""A cluster of local processes for the tests of this folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of processes with a nanny each; the tests scale it."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed (extra `cluster`)")
    import dask
    from distributed import LocalCluster

    # workers unpickle functions of the tests
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "200 s"}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            local_directory=tmp_path_factory.mktemp("dask"),
            silence_logs=50,
            env={"PYTHONPATH": str(ROOT)},
        ) as cluster,
    ):
        yield cluster
