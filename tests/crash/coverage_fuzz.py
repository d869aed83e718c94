"""Coverage-guided fuzzing of basin descriptions, journals and whole files (needs atheris).

Run as a script: "basins" or "files", seconds, seed; a crash or a wrong error ends it with a trace.
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dcwrite"]):
    import dcwrite
    from dcwrite.errors import BasinError
    from dcwrite.format.basin import parse_basin

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.crash.hostile import small_recording

FOLDER = Path(tempfile.mkdtemp(prefix="dcwrite-fuzz-"))


def basins(data: bytes) -> None:
    """Any bytes are a basin, or a BasinError."""
    try:
        basin = parse_basin(data.split(b"\n"))
    except BasinError:
        return
    basin.to_text()


def files(data: bytes) -> None:
    """Any bytes are a file, or one of our errors."""
    path = FOLDER / "file.rtdc"
    path.write_bytes(data)
    dcwrite.verify(path, threads=1)
    try:
        with dcwrite.Recording(path) as recording:
            for name in recording.features:
                len(recording[name])
    except dcwrite.DCWriteError:
        pass


def main() -> None:
    """Fuzz for a while."""
    what, seconds, seed = sys.argv[1:4]
    warnings.simplefilter("ignore")
    logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    if what == "files":
        (corpus / "a").write_bytes(small_recording(FOLDER).read_bytes())
    else:
        text = (
            b'{"description": null, "format": "hdf5", "name": "a", "paths": ["b"], "type": "file"}'
        )
        (corpus / "a").write_bytes(text)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", "-rss_limit_mb=4096",
               "-timeout=30", "-max_len=200000", "-print_final_stats=1", str(corpus)]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], {"basins": basins, "files": files}[what])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
