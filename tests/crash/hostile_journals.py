"""Journals with right checksums that say something wild."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["JOURNALS"]

_FRAME_OF_1_TIB = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x01\0\0"


def _journal(head: dict[str, Any], body: bytes = b"") -> Callable[[Path], Path]:
    """A journal with right checksums that says something wild, beside an unfinished file."""

    def build(folder: Path) -> Path:
        def record(data: dict[str, Any], packed: bytes) -> bytes:
            text = json.dumps(data).encode()
            checksum = zlib.crc32(packed, zlib.crc32(text))
            return struct.pack("<4sIII", b"REC1", len(text), len(packed), checksum) + text + packed

        path = folder / "hostile.rtdc.part"
        path.write_bytes(bytes(1000))
        opened = {"type": "open", "version": 1, "target": "../../../etc/passwd", "appends": False,
                  "ds_kwds": {}, **head.get("open", {})}  # fmt: skip
        feature = {
            "type": "feature", "number": 0, "path": "events/deform", "dtype": "<f8",
            "item_shape": [], "chunk_events": 10, "start_events": 0, **head.get("feature", {}),
        }  # fmt: skip
        commit = {
            "type": "commit", "n_events": 10, "n_frames": 1, "lengths": [[0, 10]],
            "chunks": [[0, 0, 0, 80, zlib.crc32(bytes(80))]], "tails": [], "body_bytes": len(body),
            **head.get("commit", {}),
        }  # fmt: skip
        (folder / "hostile.rtdc.journal").write_bytes(
            b"DCWRITEJ" + record(opened, b"") + record(feature, b"") + record(commit, body)
        )
        return path

    return build


JOURNALS: dict[str, Callable[[Path], Path]] = {
    "journal: right": _journal({}),
    "journal: huge count": _journal({"commit": {"lengths": [[0, 10**17]], "n_events": 10**17}}),
    "journal: negative": _journal(
        {"commit": {"lengths": [[0, -5]]}, "feature": {"chunk_events": -3}}
    ),
    "journal: no chunk size": _journal({"feature": {"chunk_events": 0}}),
    "journal: huge chunk size": _journal({"feature": {"chunk_events": 10**15}}),
    "journal: huge item": _journal({"feature": {"item_shape": [10**9, 10**9]}}),
    "journal: odd dtype": _journal({"feature": {"dtype": "O"}}),
    "journal: no dtype": _journal({"feature": {"dtype": "no such"}}),
    "journal: path up": _journal({"feature": {"path": "../../x"}}),
    "journal: path odd": _journal({"feature": {"path": "/"}}),
    "journal: offsets": _journal(
        {"commit": {"chunks": [[0, 0, 2**62, 2**62, 0], [0, 7, -1, -1, 0]]}}
    ),
    "journal: unknown feature": _journal(
        {"commit": {"lengths": [[5, 10]], "chunks": [[7, 0, 0, 1, 1]]}}
    ),
    "journal: far chunk": _journal(
        {
            "commit": {
                "lengths": [[0, 10**15]],
                "n_events": 10**15,
                "chunks": [[0, 10 * 10**14, 0, 80, zlib.crc32(bytes(80))]],
            }
        }
    ),
    "journal: no open record": _journal({"open": {"type": "other"}}),
    "journal: wrong item": _journal({"feature": {"item_shape": [0, 3]}}),
    "journal: texts": _journal({"commit": {"lengths": [["a", "b"]], "chunks": [["x"] * 5]}}),
    "journal: wrong tails": _journal({"commit": {"tails": [[0, 0, False, [[[10**9], "<f8"]]]]}}),
    "journal: body bomb": _journal({"commit": {"body_bytes": 1 << 40}}, _FRAME_OF_1_TIB),
    "journal: target": _journal(
        {"open": {"appends": True, "target": "../../../../../../etc/passwd"}}
    ),
    "journal: target device": _journal({"open": {"appends": True, "target": "/dev/zero"}}),
    "journal: ds_kwds": _journal(
        {"open": {"ds_kwds": {"compression": 99999, "shuffle": "x", "external": "/etc/x"}}}
    ),
    "journal: ds_kwds list": _journal({"open": {"ds_kwds": [1, 2]}}),
}
