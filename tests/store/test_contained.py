"""Files on which the HDF5 library crashes or hangs, read in another process."""

from __future__ import annotations

import base64
import os
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.errors import DamagedFileError, StorageError
from dcwrite.store.contained import run_contained
from dcwrite.store.describe import describe
from dcwrite.store.hdf5 import open_for_reading
from dcwrite.store.recover_scan import scan
from dcwrite.store.verify import verify

#: A file of the old format without some of its bytes: HDF5 2.0 does not come back from opening
#: one of its objects.
HANGS = r"""
c-rk)&1(}u6o0c@<Fc(KEiJa9B`zW&AzSUI@uO)Q+Ngy<@g`cf*-
5jQk7ajTS4FU%^k7foK~V4@7B3$3<iUTS7Y{vn5HErk4|?#T6zc5m+cxP3Eux3u{9yB&dGni@H}Abn*xb*g$M(qwWKohJ#4
2K?Bj|Ud{pF*d?b%FvQUF(Itrmum1t0*C7GM;ibF}Q(uW@dBD>Q7L5RC#n76L^&+`bdG$NbwnmEF6b(|pA$^^;(3q}4O-
)hwz_&6Ymlwvl$vDo<O+Ou?Db=4O70xL4cOE;KJa81!8rKnT+agpe*A3t4Of(h?hjAf_qkZG_%cw(cJ0o!HnY0TD>Bjl?`{
5ZEHJB+4V`6Fi6dK=H@3<+0&R8c4GohV3dI;{5o9&avV22#~d7VToM|K5Kf5HNA$3zHiyl%*Ccb7E9O<O<wU(*QAzFVpWy&
Yb%zk%$6O9O0X7Zp(+QTU!3dm^K|&hl6bB9`O~~f&CD}#1wHkv>J8K--dhW={$*^0I*!c;Yv?0zaQuh(K7@@FUf9S{<Tm6E
<b%jDWF?h)n0ABq5wsmeK8Ac8IgXq_?nXX=d=j}QHUIAE*Pz{twm#&3<N@SC<WtB=<kQG!kk6*>4lFK@k7g(QTRd8IqkF$x
VK_pAs?$03CbcTyf>>n_uez`w#dg>~#GWtr7CNe=9ws-gp8%Ee;^W}p;Nalk;NalkZ&!8uc6Do~aKvJYPVJm!n2u2?E6F;`
W=wIF_=fY8wGvg5jB7{M1<noA7vzm1-K=2(?+<Iu@gxO3-?vf11g7Q`Y&L#*o0u|5!EsDGsjAe~N@kHJD%OnZCM-
wKDRE!m?Y^rsvPD$t<Wy6$?d$rwH~uPi4;!9VU1du@uEhBlzV5)XYUs4=7<prd0<l;LmS>B_8sqK1;>2&o-Sk@
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "run.rtdc"
    with dcwrite.HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("deform", np.arange(50.0))
        writer.store_basin("lost", paths=["lost.rtdc"], features=["image"])
    return path


def test_the_same_as_in_this_process(recording: Path) -> None:
    told: list[tuple[int, int]] = []
    report = verify(recording, contained=True, progress=lambda *item: told.append(item))
    assert report == verify(recording)
    assert told[-1] == (recording.stat().st_size, recording.stat().st_size)
    found = describe(recording, contained=True)
    assert found.to_dict() == describe(recording).to_dict()


def test_a_crash(recording: Path) -> None:
    with pytest.raises(DamagedFileError, match="HDF5 crashed on this file") as caught:
        run_contained(os.abort, path=recording)
    assert str(recording) in str(caught.value)


def test_a_hang(recording: Path) -> None:
    """A call that holds the interpreter: no sign of life."""
    begin = time.monotonic()
    with pytest.raises(DamagedFileError, match="does not come back"):
        run_contained(pow, 7, 10**8, path=recording, hang_s=3)
    assert time.monotonic() - begin < 60


def test_what_is_slow_is_waited_for(recording: Path) -> None:
    assert run_contained(time.sleep, 3.0, path=recording, hang_s=2.5) is None


def test_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        run_contained(open_for_reading, tmp_path / "missing", path=tmp_path / "missing")
    assert caught.value.errno == 2
    assert verify(tmp_path / "missing", contained=True).exit_code == 2


def test_a_file_on_which_hdf5_hangs(tmp_path: Path) -> None:
    path = tmp_path / "hangs.rtdc"
    path.write_bytes(zlib.decompress(base64.b85decode("".join(HANGS.split()))))
    try:
        found = run_contained(verify, path, path=path, hang_s=4).findings
    except DamagedFileError as exc:
        found = [exc]
    assert found  # another version of HDF5 may come back
    with pytest.raises(DamagedFileError):
        run_contained(scan, path, tmp_path / "out.rtdc", cut_damaged=True, path=path, hang_s=4)


def test_many_chunks_take_no_quadratic_time(tmp_path: Path) -> None:
    """8000 chunks, asked for one by one, took half a minute."""
    path = tmp_path / "many.rtdc"
    with h5py.File(path, "w", libver=("v110", "latest")) as h5:
        dset = h5.create_dataset("events/deform", shape=(8000,), chunks=(1,), dtype="f8")
        for row in range(8000):
            dset.id.write_direct_chunk((row,), np.float64(row).tobytes())
        h5.attrs["experiment:event count"] = 8000
    begin = time.process_time()
    assert verify(path, threads=1).n_chunks == 8000
    report = scan(path, tmp_path / "out.rtdc", cut_damaged=False)
    assert report.n_events == 8000
    assert time.process_time() - begin < 15


@pytest.mark.parametrize("chunks", [None, (10,)], ids=["contiguous", "chunked"])
def test_a_length_alone_rescues_nothing(chunks: tuple[int, ...] | None, tmp_path: Path) -> None:
    path = tmp_path / "long.rtdc"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("events/deform", shape=(10**14,), chunks=chunks, dtype="f8")
        h5.create_dataset("events/area_um", data=np.arange(30.0), chunks=(10,))
    report = dcwrite.recover(path, tmp_path / "out.rtdc")
    assert (report.n_events, report.n_announced) == (0, 10**14)
    assert len(report.damaged) == 2
