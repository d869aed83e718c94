"""Coverage-guided fuzzing of basin descriptions, journals and whole files (needs atheris).

Run as a script: "basins", "journals" or "files", seconds, seed, folder; a crash or a wrong error
ends it with a trace. Alone here: how bytes become something that is close enough to right to get
far.
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["dcwrite"]):
    import dcwrite
    from dcwrite.errors import BasinError
    from dcwrite.format.basin import parse_basin
    from dcwrite.store.describe import describe
    from dcwrite.store.recover_scan import scan
    from dcwrite.store.stream_file import StreamFile

sys.path.insert(0, str(Path(__file__).parents[2]))
import h5py
import hdf5plugin
import numpy as np

from tests.crash.hostile import BUILDERS, small_recording

#: The fourth argument, if there is one: the fuzzer ends without any clean-up.
FOLDER = Path(sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp(prefix="fuzz-dcwrite-"))
N = 30
TEXTS = [
    "", "file", "internal", "remote", "hdf5", "h5dataset", "h5datasetchop", "http", "s3", "dcor",
    "other.rtdc", "base.rtdc", "./other.rtdc", "sub/../other.rtdc", "../other.rtdc", "/dev/zero",
    "/dev/tty", "//server/share", "\\\\server\\share", "https://example.org/a", "basin_events",
    "events", "/", "same", "basinmap0", "basinmap1", "basinmap10", "deform", "area_um", "image",
    "trace", "contour", "missing", "\0", "\ud800", "x" * 300,
]  # fmt: skip
KEYS = [
    "type", "format", "paths", "urls", "features", "mapping", "name", "description", "identifier",
    "perishable", "more",
]  # fmt: skip
DTYPES = ["<f8", "|u1", "<i2", "O", "S5", "no such", "<f8,<f8", ""]
NUMBERS = [0, 1, -1, 7, 8, 9, 10, 80, 2**31, 2**32, 2**62, 2**63, 10**15, 10**30]


def value(provider: Any, depth: int = 0) -> Any:
    """Any JSON value."""
    way = provider.ConsumeIntInRange(0, 9)
    if way <= 3:
        return TEXTS[provider.ConsumeIntInRange(0, len(TEXTS) - 1)]
    if way <= 5:
        return NUMBERS[provider.ConsumeIntInRange(0, len(NUMBERS) - 1)]
    if way == 6 or depth > 2:
        return (None, True, False, 0.5, float("nan"))[provider.ConsumeIntInRange(0, 4)]
    if way == 7:
        return provider.ConsumeUnicode(20)
    if way == 8:
        return [value(provider, depth + 1) for _ in range(provider.ConsumeIntInRange(0, 4))]
    return {
        provider.ConsumeUnicode(5): value(provider, depth + 1)
        for _ in range(provider.ConsumeIntInRange(0, 3))
    }


def changed(provider: Any, base: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A right description with some values replaced, added or left out."""
    data = dict(base)
    for _ in range(provider.ConsumeIntInRange(0, 5)):
        key = keys[provider.ConsumeIntInRange(0, len(keys) - 1)]
        way = provider.ConsumeIntInRange(0, 7)
        if way == 0:
            data.pop(key, None)
        elif way <= 3 and isinstance(data.get(key), list) and data[key]:
            items = json.loads(json.dumps(data[key]))
            items[provider.ConsumeIntInRange(0, len(items) - 1)] = value(provider)
            data[key] = items
        else:
            data[key] = value(provider)
    return data


# -- basins -----------------------------------------------------------------------------------

BASES = [
    {"description": None, "format": "hdf5", "name": "a", "paths": ["other.rtdc"], "type": "file"},
    {"description": "d", "format": "hdf5", "name": "a", "paths": ["x", "other.rtdc"],
     "type": "file", "identifier": None, "features": ["area_um"], "mapping": "basinmap0"},
    {"description": "d", "format": "h5dataset", "name": "a", "paths": ["basin_events"],
     "type": "internal", "features": ["bright_avg"], "mapping": "basinmap0"},
    {"description": "d", "features": None, "format": "http", "identifier": "i",
     "mapping": "same", "name": "r", "perishable": True, "type": "remote",
     "urls": ["https://example.org/a"]},
]  # fmt: skip


def build_basin_files() -> None:
    """A recording, and one that it can refer to."""
    for name, feature in (("base.rtdc", "deform"), ("other.rtdc", "area_um")):
        with h5py.File(FOLDER / name, "w") as h5:
            h5[f"events/{feature}"] = np.arange(float(N))
            h5["events/basinmap0"] = np.arange(N)[::-1] % 7
            h5["basin_events/bright_avg"] = np.arange(7.0)
            h5.attrs["experiment:event count"] = N


def basins(data: bytes) -> None:
    """Any bytes are a basin, or a BasinError; a basin can be followed, copied and written."""
    provider = atheris.FuzzedDataProvider(data[1:])
    if data[:1] < b"\x40":
        lines = data[1:].split(b"\n")
    else:
        base = BASES[provider.ConsumeIntInRange(0, len(BASES) - 1)]
        text = json.dumps(changed(provider, base, KEYS), indent=2)
        lines = text.encode("utf-8", "surrogatepass").split(b"\n")
    try:
        basin = parse_basin(lines)
    except BasinError:
        return
    again = parse_basin(basin.to_text().split("\n"))
    if again.to_text() != basin.to_text():
        raise AssertionError(f"{basin} becomes {again}")
    path = FOLDER / "try.rtdc"
    shutil.copyfile(FOLDER / "base.rtdc", path)
    try:
        texts = np.array(lines)
        with h5py.File(path, "r+") as h5:
            h5.create_group("basins").create_dataset("b", data=texts)
    except (ValueError, TypeError):
        return  # no such text can be in a file
    look(path)


# -- journals ---------------------------------------------------------------------------------

#: What a right journal has; filled by `build_stream`.
RECORDS: list[tuple[dict[str, Any], bytes]] = []


def record(head: dict[str, Any], body: bytes) -> bytes:
    """A record with a right checksum."""
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    checksum = zlib.crc32(body, zlib.crc32(text))
    return struct.pack("<4sIII", b"REC1", len(text), len(body), checksum) + text + body


def build_stream() -> None:
    """The files of an unfinished stream, and the records of its journal."""
    rng = np.random.default_rng(1)
    stream = StreamFile(FOLDER / "made.rtdc", "x", writer_options={"threads": 1})
    for n_events in (5, 1300, 40):
        stream.store("deform", rng.random(n_events))
        stream.store("image", rng.integers(0, 9, (n_events, 4, 5), dtype=np.uint8))
        stream.commit(n_events, 1, None)
    stream.idle()
    shutil.copyfile(FOLDER / "made.rtdc.part", FOLDER / "stream.rtdc.part")
    data = (FOLDER / "made.rtdc.journal").read_bytes()
    stream.finish()
    position = 8
    while position < len(data):
        _, n_head, n_body, _ = struct.unpack_from("<4sIII", data, position)
        position += 16
        head = json.loads(data[position : position + n_head])
        body = data[position + n_head : position + n_head + n_body]
        RECORDS.append((head, body))
        position += n_head + n_body


def journals(data: bytes) -> None:
    """Any journal leads to a recording or to one of our errors, in recovery and live reading."""
    journal = FOLDER / "stream.rtdc.journal"
    if data[:1] < b"\x20":
        journal.write_bytes(b"DCWRITEJ" + data[1:])
    else:
        provider = atheris.FuzzedDataProvider(data[1:])
        parts = []
        for head, body in RECORDS:
            way = provider.ConsumeIntInRange(0, 9)
            if 1 <= way <= 4:
                parts.append(record(changed(provider, head, [*head, "dedup_background"]), body))
            elif way == 5:
                parts.append(record(head, provider.ConsumeBytes(40)))
            elif way:
                parts += [record(head, body)] * (1 + (way == 6))
        journal.write_bytes(b"DCWRITEJ" + b"".join(parts) + provider.ConsumeBytes(30))
    part = FOLDER / "stream.rtdc.part"
    with suppress(dcwrite.DCWriteError):
        dcwrite.recover(part, FOLDER / "recovered.rtdc", overwrite=True, cut_damaged=True)
    with suppress(dcwrite.DCWriteError), dcwrite.Recording(part, live=True) as live:
        for name in live.features:
            with suppress(dcwrite.DCWriteError):
                found = live[name]
                for item in found.values() if isinstance(found, dict) else [found]:
                    if len(item):
                        item[-1], item[:3]


# -- files ------------------------------------------------------------------------------------


def look(path: Path) -> None:
    """All that one does with a file one was sent, without the ways that need a process."""
    dcwrite.verify(path, threads=1)
    for work in (read, describe, copy):
        with suppress(dcwrite.DCWriteError):
            work(path)


def read(path: Path) -> None:
    """Some events of each feature."""
    with dcwrite.Recording(path) as recording:
        for name in recording.features:
            with suppress(dcwrite.DCWriteError):
                found = recording[name]
                for item in found.values() if isinstance(found, dict) else [found]:
                    if len(item):
                        item[-1], item[:3]
        recording.lengths()
        for texts in (lambda: recording.logs, lambda: recording.tables):
            with suppress(dcwrite.DCWriteError):
                texts()


def copy(path: Path) -> None:
    """Basins and metadata into another file."""
    with (
        dcwrite.Recording(path) as recording,
        h5py.File("copy", "w", driver="core", backing_store=False) as target,
    ):
        target.create_group("events")
        for work in (dcwrite.copy_metadata, dcwrite.copy_basins):
            with suppress(dcwrite.DCWriteError):
                work(recording.h5, target)


def files(data: bytes) -> None:
    """Any bytes are a file, or one of our errors."""
    path = FOLDER / "file.rtdc"
    path.write_bytes(data)
    look(path)
    out = path.with_name("out.rtdc")
    out.unlink(missing_ok=True)
    with suppress(dcwrite.DCWriteError):
        scan(path, out, cut_damaged=True)


def build_corpus(what: str, corpus: Path) -> None:
    """Where the fuzzer begins."""
    if what == "files":
        corpus.joinpath("small").write_bytes(small_recording(FOLDER, n=6).read_bytes())
        with h5py.File(FOLDER / "old.rtdc", "w", libver="earliest") as h5:  # few checksums
            for name in ("deform", "area_um"):
                h5.create_dataset(f"events/{name}", data=np.arange(9.0), chunks=(4,))
            h5.create_dataset("events/image", data=np.zeros((9, 4, 5), "u1"), chunks=(3, 4, 5),
                              **hdf5plugin.Zstd(clevel=5))  # fmt: skip
            h5["events/basinmap0"] = np.arange(9) % 3
            h5["basin_events/image_bg"] = np.zeros((3, 4, 5), "u1")
            h5["logs/log"] = np.array([b"one", b"two"])
            h5["tables/t"] = np.zeros(3, dtype=[("a", "f8")])
            h5["basins/b"] = np.array(json.dumps(BASES[2]).encode().split(b"\n"))
            h5.attrs["experiment:event count"] = 9
        corpus.joinpath("old").write_bytes((FOLDER / "old.rtdc").read_bytes())
        for number, (name, build) in enumerate(BUILDERS.items()):
            folder = FOLDER / f"b{number}"
            folder.mkdir()
            with suppress(OSError):
                path = build(folder)
                if not path.is_file() or path.stat().st_size > 60_000 or "journal" in name:
                    continue
                begin = time.monotonic()
                files(path.read_bytes())
                if time.monotonic() - begin < 0.2:
                    corpus.joinpath(str(number)).write_bytes(path.read_bytes())
            shutil.rmtree(folder)
        return
    rng = np.random.default_rng(1)
    for number in range(20):
        corpus.joinpath(str(number)).write_bytes(b"\xff" + rng.bytes(200))
    if what == "basins":
        build_basin_files()
        for number, base in enumerate(BASES):
            corpus.joinpath(f"text{number}").write_bytes(b"\0" + json.dumps(base).encode())
    else:
        build_stream()
        raw = b"".join(record(*item) for item in RECORDS)
        corpus.joinpath("raw").write_bytes(b"\0" + raw)


def main() -> None:
    """Fuzz for a while."""
    what, seconds, seed = sys.argv[1:4]
    sys.argv[4:] = []
    warnings.simplefilter("ignore")
    logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    build_corpus(what, corpus)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", "-rss_limit_mb=4096",
               "-timeout=30", "-max_len=200000", "-print_final_stats=1", str(corpus)]  # fmt: skip
    targets = {"basins": basins, "journals": journals, "files": files}
    atheris.Setup([sys.argv[0], *options], targets[what])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
