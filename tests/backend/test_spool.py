"""The spool of the agent: what it has taken is there again after whatever happens to the process or the file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoinstr.backend.forward.spool import MAGIC, SMALLEST_SPOOL_BYTES, Entry, Spool, SpoolError

MIB = 2**20


def entry(number: int, *, size: int = 100, service: str = "shop", spans: int = 1) -> Entry:
    return Entry(1, b"%08d" % number + b"x" * (size - 8), {service: spans})


def number_of(record) -> int:
    return int(record.entry.payload[:8])


@contextmanager
def spool_in(folder: Path, max_bytes: int = MIB) -> Iterator[Spool]:
    spool = Spool(str(folder), max_bytes)
    try:
        yield spool
    finally:
        spool.close()


def drain(spool: Spool, at_once: int = 3) -> list[int]:
    """The numbers of all records, in the order in which they are taken."""
    numbers = []
    while records := spool.take(at_once, MIB, 0):
        numbers += [number_of(record) for record in records]
        spool.done()
    return numbers


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def test_records_leave_in_order_and_once(tmp_path: Path) -> None:
    """Spans arrive at the collector as they came, however they are grouped for sending."""
    with spool_in(tmp_path) as spool:
        for start in range(0, 1000, 50):
            spool.append([entry(start + number, size=1000) for number in range(50)])
            assert drain(spool, at_once=7) == list(range(start, start + 50))
        assert spool.figures()["forward_waiting_spans"] == 0
        assert len(files(tmp_path)) == 1, "what was sent does not stay on the disk"


def test_what_is_given_back_is_taken_again(tmp_path: Path) -> None:
    """A collector that is away costs no spans."""
    with spool_in(tmp_path) as spool:
        spool.append([entry(1), entry(2)])
        for _ in range(3):
            assert [number_of(record) for record in spool.take(2, MIB, 0)] == [1, 2]
            spool.give_back()
        assert spool.figures()["forward_waiting_spans"] == 2
        assert drain(spool) == [1, 2]


def test_records_survive_a_restart_and_are_not_repeated(tmp_path: Path) -> None:
    """An agent that is restarted while the collector is away goes on where it was."""
    with spool_in(tmp_path) as spool:
        spool.append([entry(number, size=20_000, spans=3) for number in range(20)])
        spool.append([entry(number, size=20_000, spans=3) for number in range(20, 40)])
        spool.take(25, 25 * 20_000, 0)
        spool.done()
    with spool_in(tmp_path) as spool:
        left = drain(spool)
        assert left == list(range(40 - len(left), 40))
        assert 0 < len(left) < 40
    with spool_in(tmp_path) as spool:
        assert drain(spool) == []


def test_waiting_spans_are_known_after_a_restart(tmp_path: Path) -> None:
    """The gauge that tells an operator how far behind the agent is does not begin at zero."""
    with spool_in(tmp_path) as spool:
        spool.append([entry(1, spans=3), entry(2, spans=4)])
        spool.take(1, MIB, 0)
        spool.done()
    with spool_in(tmp_path) as spool:
        assert spool.figures()["forward_waiting_spans"] == 4


def test_the_oldest_make_room_and_are_counted_by_service(tmp_path: Path) -> None:
    """A collector that stays away must not fill the disk, and what is gone has to be told."""
    with spool_in(tmp_path, max_bytes=100_000) as spool:
        for number in range(500):
            spool.append([entry(number, size=1000, service="old" if number < 250 else "new")])
            assert sum(path.stat().st_size for path in files(tmp_path)) <= 100_000
        kept = drain(spool)
        assert kept == list(range(500 - len(kept), 500))
        assert len(kept) > 80
        assert spool.evicted() == {"old": 250, "new": 250 - len(kept)}
        assert spool.figures()["forward_evicted_spans_total"] == 500 - len(kept)


@pytest.mark.parametrize("arrives", [True, False])
def test_what_makes_room_while_it_is_sent_is_counted_only_if_it_does_not_arrive(tmp_path: Path, arrives: bool) -> None:
    """The counts of lost spans are right also in the worst moment: every span is either sent or lost."""
    with spool_in(tmp_path, max_bytes=100_000) as spool:
        spool.append([entry(0, size=1000)])
        assert len(spool.take(1, MIB, 0)) == 1
        for number in range(1, 300):
            spool.append([entry(number, size=1000)])
        (spool.done if arrives else spool.give_back)()
        kept = len(drain(spool))
        assert spool.evicted() == {"shop": 300 - kept - arrives}


def test_an_entry_larger_than_the_spool_is_counted(tmp_path: Path) -> None:
    """A monster must neither stop the agent nor push everything else out in vain for ever."""
    with spool_in(tmp_path, max_bytes=SMALLEST_SPOOL_BYTES) as spool:
        spool.append([entry(1, size=SMALLEST_SPOOL_BYTES, spans=7), entry(2)])
        assert spool.evicted() == {"shop": 7}
        assert drain(spool) == [2]


def test_endless_new_service_names_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Service names are what strangers send."""
    with spool_in(tmp_path, max_bytes=SMALLEST_SPOOL_BYTES) as spool:
        for number in range(3000):
            spool.append([entry(number, size=1000, service=f"service {number}")])
        evicted = spool.evicted()
        assert len(evicted) == 1001
        assert sum(evicted.values()) + len(drain(spool)) == 3000


def test_a_torn_end_costs_nothing_but_itself(tmp_path: Path) -> None:
    """A kill in the middle of a write, at any byte of it: every whole record before it is there, and no part of one."""
    with spool_in(tmp_path / "whole") as spool:
        spool.append([entry(number) for number in range(4)])
    whole = files(tmp_path / "whole")[0].read_bytes()
    for size in range(len(whole)):
        folder = tmp_path / f"cut{size}"
        folder.mkdir()
        (folder / "00000000000000000001.spool").write_bytes(whole[:size])
        with spool_in(folder) as spool:
            spool.append([entry(9)])
            record_size = (len(whole) - len(MAGIC)) // 4
            assert drain(spool) == [*range(max(size - len(MAGIC), 0) // record_size), 9]


def test_damage_is_skipped_and_counted(tmp_path: Path) -> None:
    """A disk that gives back other bytes than it got makes nobody send nonsense, and stops nothing."""
    with spool_in(tmp_path / "whole") as spool:
        spool.append([entry(number) for number in range(3)])
    whole = files(tmp_path / "whole")[0].read_bytes()
    for position in range(len(MAGIC), len(whole), 5):
        folder = tmp_path / f"damage{position}"
        folder.mkdir()
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        (folder / "00000000000000000001.spool").write_bytes(damaged)
        with spool_in(folder) as spool:
            spool.append([entry(9)])
            numbers = drain(spool, at_once=1)
            before = (position - len(MAGIC)) // ((len(whole) - len(MAGIC)) // 3)
            assert numbers == [*range(before), 9]
            assert spool.figures()["forward_waiting_spans"] == 0


def test_a_file_of_another_version_is_an_error(tmp_path: Path) -> None:
    """After a downgrade, spans that wait are not thrown away in silence."""
    (tmp_path / "00000000000000000001.spool").write_bytes(b"aispool9 and more")
    with pytest.raises(SpoolError, match="another version"):
        Spool(str(tmp_path), MIB)
    assert files(tmp_path)


def test_two_agents_cannot_share_a_folder(tmp_path: Path) -> None:
    """They would delete each other's spans; the message says what to do."""
    with spool_in(tmp_path), pytest.raises(SpoolError, match="another process uses the folder .*; give each its own"):
        Spool(str(tmp_path), MIB)
    with spool_in(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The message names the folder and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=f"cannot use the folder {tmp_path}/file/spool .*: Not a directory"):
        Spool(str(tmp_path / "file" / "spool"), MIB)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A file grows to ``size`` bytes and no further, as on a full disk: the kernel writes what fits, then refuses."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_full_disk_refuses_whole_calls_and_loses_nothing(tmp_path: Path) -> None:
    """Whoever sent the spans is told, and may try again; what was taken before stays; after it all goes on."""
    with spool_in(tmp_path) as spool:
        spool.append([entry(1), entry(2)])
        with file_size_limit(files(tmp_path)[0].stat().st_size + 150):
            with pytest.raises(SpoolError, match=f"cannot keep spans in {tmp_path}: File too large"):
                spool.append([entry(3), entry(4)])
            assert spool.figures()["forward_waiting_spans"] == 2
        with file_size_limit(4):
            for _ in range(3):
                with pytest.raises(SpoolError, match="File too large"):
                    spool.append([entry(5)])
            assert len(files(tmp_path)) == 1, "failures leave no files behind"
        spool.append([entry(6)])
        assert drain(spool) == [1, 2, 6]


WRITER = """
import sys
from autoinstr.backend.forward.spool import Entry, Spool
spool = Spool(sys.argv[1], 64 * 2**20)
number = 0
while True:
    numbers = range(number, number + 3)
    spool.append([Entry(1, b"%08d" % number + b"x" * 5000, {"shop": 1}) for number in numbers])
    number += 3
    print(number, flush=True)
"""


def test_nothing_that_was_taken_is_lost_by_a_kill(tmp_path: Path) -> None:
    """Whose spans were answered 2xx never sends them again: they must be on disk by then."""
    for _ in range(5):
        folder = tmp_path / os.urandom(4).hex()
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(40):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read()
        process.wait(timeout=30)
        process.stdout.close()
        # A last line without its end was torn by the kill, too.
        whole_lines = said[: said.rfind("\n") + 1].split()
        taken = int(whole_lines[-1]) if whole_lines else 120
        with spool_in(folder, 64 * MIB) as spool:
            numbers = drain(spool)
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= taken
