"""Free space is asked for before a file is begun, and watched while a stream goes on."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from dcwrite import StorageError
from dcwrite.store.space import LOW_BYTES, SpaceWatch, free_bytes, require_space
from dcwrite.store.whole_file import whole_file


def test_free_bytes_of_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "folder" / "new.rtdc")
    assert free is not None
    assert abs(free - shutil.disk_usage(tmp_path).free) < 2**30


def test_more_than_the_disk_has_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    too_much = shutil.disk_usage(tmp_path).free + 2**40
    # with a decimal: "about 0 MB, got 0 MB" says nothing of a small file on a full disk
    message = (
        r"about [0-9,]+\.[0-9] MB .* got [0-9,]+\.[0-9] MB; free some, or choose another disk"
    )
    with pytest.raises(StorageError, match=message) as caught:
        require_space(tmp_path / "new.rtdc", too_much)
    assert caught.value.errno == errno.ENOSPC
    with (
        pytest.raises(StorageError, match="free space"),
        whole_file(tmp_path / "new.rtdc", expected_bytes=too_much),
    ):
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == []


def test_little_is_not_refused(tmp_path: Path) -> None:
    require_space(tmp_path / "new.rtdc", 1)
    with whole_file(tmp_path / "new.rtdc", expected_bytes=1) as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "new.rtdc").read_bytes() == b"x"


def test_a_stream_is_warned_once_of_low_space(tmp_path: Path) -> None:
    watch = SpaceWatch(tmp_path / "new.rtdc")
    free = free_bytes(tmp_path)
    assert free is not None
    assert watch.judge(max(free, 10**15), 10.0) is None
    warning = watch.judge(LOW_BYTES // 2, 10.0)
    assert warning is not None
    assert "low disk space" in warning
    assert watch.warning() is None


def test_the_rate_counts_too(tmp_path: Path) -> None:
    watch = SpaceWatch(tmp_path / "new.rtdc")
    free = free_bytes(tmp_path)
    assert free is not None
    # half of the disk within ten seconds: full in ten more, however large it is
    warning = watch.judge(free // 2, 10.0)
    assert warning is not None
    assert "full in about" in warning
