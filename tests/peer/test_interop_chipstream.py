"""ChipStream's command line with dcwrite gives the recording that it gives without."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import dcwrite
from tests.peer.interop_programs import assert_same_recording, raw_recording
from tests.peer.judge import PEER_REASON

pytest.importorskip("dcnum", reason=PEER_REASON)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        importlib.util.find_spec("chipstream") is None,
        reason="needs ChipStream (pip install 'chipstream[cli]')",
    ),
]

#: What pip makes of ChipStream's entry point "chipstream-cli".
PROGRAM = """
import sys
from chipstream.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.parametrize("options", [(), ("--drain-basins", "--debug")], ids=["tap", "drain"])
def test_chipstream(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = raw_recording(tmp_path / "raw.rtdc")
    script = tmp_path / "chipstream-cli"
    script.write_text(PROGRAM)
    paths = []
    for way in ([], ["-m", "dcwrite.interop.dcnum"]):
        path = tmp_path / f"out{len(paths)}.rtdc"
        command = [sys.executable, *way, str(script), "-kf", "haralick=False", "--num-cpus", "2"]
        result = subprocess.run(
            [*command, "-kb", "kernel_size=20", *options, str(source), str(path)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        paths.append(path)
    assert_same_recording(paths[1], paths[0], tmp_path)
    with dcwrite.Recording(paths[1]) as recording:
        assert len(recording) > 50
    # the copied log says who has written it
    theirs, ours = (_software(path) for path in paths)
    assert theirs.startswith("dcnum")
    assert ours == f"dcwrite {dcwrite.__version__}"


def _software(path: Path) -> str:
    import h5py

    with h5py.File(path) as h5:
        return str(h5["logs/camera"].attrs["software"])
