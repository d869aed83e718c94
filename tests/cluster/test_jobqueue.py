"""Slurm through dask-jobqueue, as docs/howto/cluster.md shows it: all but the submitting."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.leaks_allowed(reason="the scheduler's threads end with Python")


def example() -> str:
    """The example's lines that describe the cluster, on the loopback interface."""
    text = (ROOT / "docs" / "howto" / "cluster.md").read_text(encoding="utf-8")
    found = re.search(r"(?ms)^cluster = SLURMCluster\(\n.*?^\)\n", text)
    assert found is not None
    call = found[0]
    assert 'interface="ib0"' in call
    here = 'interface="lo", scheduler_options={"dashboard_address": "127.0.0.1:0"}'
    return call.replace('interface="ib0"', here)


def test_the_job_script_of_the_example() -> None:
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    if not Path("/sys/class/net/lo").exists():
        pytest.skip("the loopback interface has another name here")
    from dask_jobqueue import SLURMCluster

    names: dict[str, Any] = {"SLURMCluster": SLURMCluster}
    exec(example(), names)
    cluster = names["cluster"]
    try:
        lines = cluster.job_script().splitlines()
    finally:
        cluster.close()
    assert lines[0].startswith("#!")
    for option in ("-p batch", "--cpus-per-task=16", "--mem=60G", "-t 02:00:00"):
        assert f"#SBATCH {option}" in lines
    start = next(number for number, line in enumerate(lines) if "dask_worker" in line)
    assert "export HDF5_USE_FILE_LOCKING=FALSE" in lines[:start]
    command = lines[start]
    assert command.startswith(sys.executable)
    for option in ("--nthreads 1", "--nworkers 16", "--nanny", "--local-directory $TMPDIR"):
        assert option in command
    assert re.search(r"--memory-limit 3\.7\d*GiB", command)
