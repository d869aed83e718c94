"""Files that were damaged by accident or made to do harm.

Alone here: how to make them. Invariant: `BUILDERS` gives each by a name, as a function of a folder
that returns the path; none is larger than some 10 MB.
"""

from __future__ import annotations

import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

import dcwrite

from .hostile_journals import JOURNALS

__all__ = ["BUILDERS", "mutate", "small_recording"]

ZSTD = dict(hdf5plugin.Zstd(clevel=5))
N = 30


def small_recording(folder: Path, name: str = "small.rtdc", n: int = N) -> Path:
    """A recording with one of everything."""
    path = folder / name
    rng = np.random.default_rng(1)
    with dcwrite.HDF5Writer(path, mode="x", threads=1, event_count=True) as writer:
        writer.store_feature_chunk("deform", rng.random(n))
        writer.store_feature_chunk("area_um", rng.random(n))
        writer.store_feature_chunk("image", rng.integers(0, 255, (n, 8, 9), dtype=np.uint8))
        writer.store_feature_chunk("mask", rng.random((n, 8, 9)) > 0.5)
        writer.store_feature_chunk(
            "trace", {"fl1_raw": rng.integers(0, 9, (n, 7), dtype=np.int16)}
        )
        writer.store_feature_chunk("contour", [rng.integers(0, 9, (4, 2)) for _ in range(n)])
        writer.store_log("log", ["one", "two"])
        writer.store_table("table", {"a": np.arange(4.0)})
        writer.store_basin("inner", internal_data={"image_bg": np.zeros((2, 8, 9), np.uint8)},
                           mapping=np.arange(n) % 2)  # fmt: skip
        writer.store_basin("outer", paths=["other.rtdc"], features=["bright_avg"])
        writer.store_metadata({"experiment:sample": "x", "setup:channel width": 20.0})
    return path


def _plain(folder: Path) -> tuple[Path, h5py.File]:
    path = folder / "hostile.rtdc"
    h5 = h5py.File(path, "x", libver=("v110", "latest"))
    events = h5.create_group("events")
    events.create_dataset("deform", data=np.arange(float(N)), chunks=(10,), fletcher32=True)
    h5.attrs["experiment:event count"] = N
    return path, h5


def _basin(h5: h5py.File, text: str | bytes | dict[str, Any], name: str = "b") -> None:
    if isinstance(text, dict):
        text = json.dumps(text, indent=2)
    data = text.encode() if isinstance(text, str) else text
    lines = np.array(data.split(b"\n"))
    h5.require_group("basins").create_dataset(name, data=lines)


def _file_basin(*paths: str, **more: Any) -> dict[str, Any]:
    return {
        "description": "x", "name": "n", "type": "file", "format": "hdf5", "paths": list(paths),
        "identifier": None, **more,
    }  # fmt: skip


def _with_basin(*paths: str, **more: Any) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path, h5 = _plain(folder)
        with h5:
            _basin(h5, _file_basin(*paths, **more))
        return path

    return build


def _with_text(text: str | bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path, h5 = _plain(folder)
        with h5:
            _basin(h5, text)
        return path

    return build


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.rtdc")
    return _with_basin("pipe.rtdc")(folder)


def _fifo_itself(folder: Path) -> Path:
    path = folder / "hostile.rtdc"
    os.mkfifo(path)
    return path


def _device_link(folder: Path) -> Path:
    (folder / "device.rtdc").symlink_to("/dev/zero")
    return _with_basin("device.rtdc")(folder)


def _cycle(folder: Path) -> Path:
    first, h5 = _plain(folder)
    with h5:
        _basin(h5, _file_basin("second.rtdc"))
    with h5py.File(folder / "second.rtdc", "x") as h5:
        h5.create_group("events")
        _basin(h5, _file_basin("hostile.rtdc"))
    return first


def _fan(folder: Path) -> Path:
    """Each of some files refers to all of them: paths through them grow as a factorial."""
    names = [f"fan{number}.rtdc" for number in range(12)]
    for name in names:
        with h5py.File(folder / name, "x") as h5:
            h5.create_group("events")
            for other in names:
                _basin(h5, _file_basin(other), other)
    return folder / names[0]


def _layers(folder: Path) -> Path:
    """Layers of files, each of which refers to all of the next: 8 ** 8 ways through."""
    for layer in range(8):
        for number in range(8):
            with h5py.File(folder / f"layer{layer}_{number}.rtdc", "x") as h5:
                h5.create_group("events")
                for other in range(8):
                    _basin(h5, _file_basin(f"layer{layer + 1}_{other}.rtdc"), str(other))
    return folder / "layer0_0.rtdc"


def _chain(folder: Path) -> Path:
    for number in range(60):
        with h5py.File(folder / f"chain{number}.rtdc", "x") as h5:
            h5.create_group("events")
            _basin(h5, _file_basin(f"chain{number + 1}.rtdc"))
    return folder / "chain0.rtdc"


def _huge_contiguous(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"].create_dataset("area_um", shape=(10**18,), dtype="u1")
    return path


def _huge_chunked(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"].create_dataset("area_um", shape=(10**15,), dtype="f8", chunks=(1000,))
        h5["events"].create_dataset("image", shape=(10**12, 5, 5), dtype="u1", chunks=(1, 5, 5))
    return path


def _huge_log(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        logs = h5.create_group("logs")
        logs.create_dataset("contiguous", shape=(10**15,), dtype="S100")
        logs.create_dataset("chunked", shape=(10**15,), dtype="S100", chunks=(10,))
        h5.create_group("tables").create_dataset(
            "t", shape=(10**15,), dtype=[("a", "f8")], chunks=(10,)
        )
    return path


def _huge_basin_text(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5.create_group("basins").create_dataset("b", shape=(10**14,), dtype="S100", chunks=(9,))
    return path


def _huge_mapping(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"].create_dataset("basinmap0", shape=(10**15,), dtype="i8", chunks=(10,))
        other = h5py.File(folder / "other.rtdc", "x")
        with other:
            other.create_group("events")["area_um"] = np.arange(5.0)
        _basin(h5, _file_basin("other.rtdc", mapping="basinmap0"))
    return path


def _mapping_out_of_range(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"]["basinmap0"] = np.array([-1, 2**62] + [0] * (N - 2))
        with h5py.File(folder / "other.rtdc", "x") as other:
            other.create_group("events")["area_um"] = np.arange(5.0)
            other["events/image"] = np.zeros((5, 3, 3), np.uint8)
        _basin(h5, _file_basin("other.rtdc", mapping="basinmap0"))
    return path


def _mapping_of_text(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"]["basinmap0"] = np.array([b"a"] * N)
        with h5py.File(folder / "other.rtdc", "x") as other:
            other.create_group("events")["area_um"] = np.arange(5.0)
        _basin(h5, _file_basin("other.rtdc", mapping="basinmap0"))
    return path


def _mapping_is_group(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"].create_group("basinmap0")
        with h5py.File(folder / "other.rtdc", "x") as other:
            other.create_group("events")["area_um"] = np.arange(5.0)
        _basin(h5, _file_basin("other.rtdc", mapping="basinmap0"))
    return path


def _external_links(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events/area_um"] = h5py.ExternalLink("/etc/passwd", "/x")
        h5["events/image"] = h5py.ExternalLink("/dev/zero", "/x")
        h5["logs"] = h5py.ExternalLink("other.rtdc", "/logs")
        h5["basins"] = h5py.ExternalLink("other.rtdc", "/basins")
        h5["tables"] = h5py.ExternalLink("other.rtdc", "/tables")
    with h5py.File(folder / "other.rtdc", "x") as other:
        other.create_group("logs")["secret"] = np.array([b"secret"])
        other.create_group("tables")
        other.create_group("basins")
    return path


def _events_elsewhere(folder: Path) -> Path:
    path = folder / "hostile.rtdc"
    with h5py.File(folder / "other.rtdc", "x") as other:
        other.create_group("events")["deform"] = np.arange(5.0)
    with h5py.File(path, "x") as h5:
        h5["events"] = h5py.ExternalLink("other.rtdc", "/events")
    return path


def _soft_loop(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events/area_um"] = h5py.SoftLink("/events/image")
        h5["events/image"] = h5py.SoftLink("/events/area_um")
        h5["events/trace"] = h5py.SoftLink("/events")
        h5["logs"] = h5py.SoftLink("/logs")
    return path


def _hard_loop(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events/trace"] = h5["events"]
        h5["logs"] = h5["events"]
        h5["tables"] = h5["/"]
        h5["basins"] = h5["events"]
        h5["events/contour"] = h5["/"]
    return path


def _virtual(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        layout = h5py.VirtualLayout(shape=(N,), dtype="f8")
        layout[:] = h5py.VirtualSource("/dev/zero", "x", shape=(N,))
        h5["events"].create_virtual_dataset("area_um", layout)
        layout = h5py.VirtualLayout(shape=(N,), dtype="f8")
        layout[:] = h5py.VirtualSource(".", "/events/bright_avg", shape=(N,))
        h5["events"].create_virtual_dataset("bright_avg", layout)
    return path


def _external_storage(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5["events"].create_dataset(
            "area_um", shape=(10,), dtype="u1", external=[("/etc/passwd", 0, 10)]
        )
        h5["events"].create_dataset(
            "image", shape=(10, 3, 3), dtype="u1", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]
        )
    return path


def _zstd_bomb(folder: Path) -> Path:
    """A frame that says, truly, that it holds 4 GiB, where a chunk of 90 bytes is expected."""
    path, h5 = _plain(folder)
    with h5:
        dset = h5["events"].create_dataset(
            "image", shape=(10, 3, 3), dtype="u1", chunks=(10, 3, 3), **ZSTD
        )
        size = 1 << 32
        blocks = []
        left = size
        while left:
            part = min(left, 1 << 17)
            left -= part
            head = (not left) | 1 << 1 | part << 3  # a block that repeats one byte
            blocks.append(struct.pack("<I", head)[:3] + b"\0")
        frame = (
            b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + struct.pack("<Q", size) + b"".join(blocks)
        )
        dset.id.write_direct_chunk((0, 0, 0), frame)
    return path


def _zstd_liar(folder: Path) -> Path:
    """A frame that says that it holds 90 bytes, and unpacks to 256 MiB."""
    path, h5 = _plain(folder)
    with h5:
        dset = h5["events"].create_dataset(
            "image", shape=(10, 3, 3), dtype="u1", chunks=(10, 3, 3), **ZSTD
        )
        block = struct.pack("<I", 1 << 1 | (1 << 17) << 3)[:3] + b"\0"
        last = struct.pack("<I", 1 | 1 << 1 | (1 << 17) << 3)[:3] + b"\0"
        frame = b"\x28\xb5\x2f\xfd" + bytes([0b00100000, 90]) + block * 2047 + last
        dset.id.write_direct_chunk((0, 0, 0), frame)
    return path


def _gzip_bomb(folder: Path) -> Path:
    """Deflate: 256 MiB of zeros in 256 kB, where a chunk of 90 bytes is expected."""
    path, h5 = _plain(folder)
    with h5:
        dset = h5["events"].create_dataset(
            "image", shape=(10, 3, 3), dtype="u1", chunks=(10, 3, 3), compression="gzip"
        )
        packer = zlib.compressobj(9)
        zeros = bytes(1 << 20)
        data = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
        dset.id.write_direct_chunk((0, 0, 0), data)
    return path


def _huge_chunks(folder: Path) -> Path:
    """One chunk of 4 GB minus a little, of zeros: 1 kB in the file."""
    path, h5 = _plain(folder)
    with h5:
        h5["events"].create_dataset(
            "image", shape=(1, 60000, 60000), dtype="u1", chunks=(1, 60000, 60000), **ZSTD
        )
    return path


def _huge_attribute(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5.attrs.create("experiment:sample", np.zeros(2_000_000, dtype="f8"))
        h5.attrs.create("user:text", np.bytes_(b"x" * 5_000_000))
        h5["events/deform"].attrs.create("x", np.zeros(500_000))
    return path


def _odd_attributes(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        h5.attrs["experiment:event count"] = "many"
        h5.attrs["no colon"] = h5py.Empty("f8")
        h5.attrs["a:b:c"] = np.array([], dtype="f8")
        h5.attrs["setup:x"] = h5.ref
        h5.attrs["setup:y"] = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
        h5.attrs["setup:z"] = b"\xff\xfe"
    return path


def _odd_datasets(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        events = h5["events"]
        events["area_um"] = 5.0
        events["bright_avg"] = h5py.Empty("f8")
        events["time"] = np.array([b"a"] * N)
        events.create_dataset("frame", data=["x"] * N, dtype=h5py.string_dtype())
        events.create_dataset("index", shape=(N,), dtype=h5py.ref_dtype)
        events.create_dataset("nevents", shape=(N,), dtype=[("a", "i4"), ("b", "f8")])
        events.create_dataset("image", shape=(0, 3, 3), dtype="u1")
        events.create_dataset("mask", shape=(N, 0, 3), dtype="u1")
        events.create_dataset("image_bg", shape=(N, 3, 3), dtype="c16")
        events["named"] = np.dtype("f8")
        h5.create_group("logs")["log"] = 3
        h5["logs"].create_dataset("refs", shape=(3,), dtype=h5py.ref_dtype)
        h5.create_group("tables")["t"] = b"text"
        h5["basins"] = np.arange(3)
    return path


def _not_groups(folder: Path) -> Path:
    path = folder / "hostile.rtdc"
    with h5py.File(path, "x") as h5:
        for name in ("events", "logs", "tables", "basins", "basin_events"):
            h5[name] = np.arange(3)
    return path


def _deep_groups(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        group = h5["events"]
        for _ in range(2000):
            group = group.create_group("trace")
    return path


def _many_objects(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        group = h5.create_group("events/contour")
        for number in range(5000):
            group.create_group(str(number))
    return path


def _odd_names(folder: Path) -> Path:
    path, h5 = _plain(folder)
    with h5:
        for name in (b"\xff\xfe", b"a\nb", b"\x1b[31m", b" ", b".", b"x" * 5000):
            if name != b".":
                h5["events"].id.links  # noqa: B018 - opened
                h5py.h5g.create(h5["events"].id, name)
                h5py.h5g.create(h5.require_group("logs").id, name)
        h5.attrs.create("x\x1b[2J:y", 1)
    return path


def _empty(folder: Path) -> Path:
    path = folder / "hostile.rtdc"
    path.write_bytes(b"")
    return path


def _noise(folder: Path) -> Path:
    path = folder / "hostile.rtdc"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + random.Random(1).randbytes(5000))
    return path


def _truncated(folder: Path) -> Path:
    path = small_recording(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def _is_folder(folder: Path) -> Path:
    path = folder / "hostile.rtdc"
    path.mkdir()
    return path


JSON_BOMB = '{"type": "file", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "basin: itself": _with_basin("hostile.rtdc"),
    "basin: cycle of two": _cycle,
    "basin: all refer to all": _fan,
    "basin: layers": _layers,
    "basin: long chain": _chain,
    "basin: device": _with_basin("/dev/zero"),
    "basin: device by link": _device_link,
    "basin: pipe": _fifo,
    "basin: tty": _with_basin("/dev/tty", "/proc/self/mem", "/proc/kmsg"),
    "basin: UNC": _with_basin("\\\\server\\share\\x.rtdc", "//server/share/x.rtdc"),
    "basin: URL": _with_basin("https://example.org/x.rtdc", "file:///etc/passwd", "s3://b/x"),
    "basin: outside": _with_basin("../../../../../../etc/passwd", "/etc/passwd", "~/x.rtdc"),
    "basin: odd paths": _with_basin("", ".", "..", "\0", "a\0b", "x" * 10_000, "/" * 5000),
    "basin: surrogate": _with_text('{"type": "file", "format": "hdf5", "name": "\\ud800", '
                                   '"paths": ["\\ud800.rtdc"], "description": "\\udfff"}'),
    "basin: 200000 paths": _with_basin(*[f"{n}.rtdc" for n in range(200_000)]),
    "basin: 200000 features": _with_basin("x.rtdc", features=[f"f{n}" for n in range(200_000)]),
    "basin: nested JSON": _with_text(JSON_BOMB),
    "basin: huge number": _with_text('{"type": "file", "x": ' + "9" * 500_000 + "}"),
    "basin: huge exponent": _with_text('{"type": "file", "x": 1e999999999}'),
    "basin: NaN": _with_text('{"type": NaN, "paths": [Infinity]}'),
    "basin: list": _with_text("[1, 2]"),
    "basin: no UTF-8": _with_text(b'{"type": "file", "name": "\xff\xfe"}'),
    "basin: keys twice": _with_text('{"type": "file", "type": {"a": []}, "paths": 3}'),
    "basin: huge text": _huge_basin_text,
    "mapping: out of range": _mapping_out_of_range,
    "mapping: 10**15 rows": _huge_mapping,
    "mapping: text": _mapping_of_text,
    "mapping: group": _mapping_is_group,
    "shape: 10**18 contiguous": _huge_contiguous,
    "shape: 10**15 chunked": _huge_chunked,
    "shape: huge logs": _huge_log,
    "shape: huge chunk": _huge_chunks,
    "links: external": _external_links,
    "links: events elsewhere": _events_elsewhere,
    "links: soft loop": _soft_loop,
    "links: hard loop": _hard_loop,
    "data: virtual": _virtual,
    "data: external": _external_storage,
    "bomb: zstd": _zstd_bomb,
    "bomb: zstd that lies": _zstd_liar,
    "bomb: gzip": _gzip_bomb,
    "attributes: huge": _huge_attribute,
    "attributes: odd": _odd_attributes,
    "datasets: odd": _odd_datasets,
    "groups: none": _not_groups,
    "groups: deep": _deep_groups,
    "groups: many": _many_objects,
    "names: odd": _odd_names,
    "file: empty": _empty,
    "file: noise": _noise,
    "file: truncated": _truncated,
    "file: pipe": _fifo_itself,
    "file: folder": _is_folder,
    **JOURNALS,
}  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, moved, doubled, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        way = rng.randrange(5)
        at = rng.randrange(len(changed))
        if way <= 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 2:
            width = rng.choice([1, 2, 4, 8])
            value = rng.choice([0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
            changed[at : at + width] = (value % 256**width).to_bytes(width, "little")
        elif way == 3:
            size = rng.randrange(1, 200)
            other = rng.randrange(len(changed))
            changed[at : at + size] = changed[other : other + size]
        elif rng.random() < 0.2:
            del changed[max(9, at) :]
    return bytes(changed)
