"""What processes use and what else goes on on the machine, read from outside.

Owns: CPU clocks of whole process trees as series over time, memory, switches, threads, the noise of the surroundings, and the pace
at which the CPUs work.
Must not know: what the processes are, when the window of a run is (it is chosen afterwards), what is too much.
Invariants: nothing here is done to a measured process but reading, and only ``memory`` is felt by it; CPU that was seen once is
never lost when the process ends; what the system does not say is None, never 0; series are in wall-clock time (epoch
seconds), as the generator's slots are.

Linux keeps a clock per process: CPU of all its threads, ended ones too, in nanoseconds, readable by anybody for 0.7 µs
(``clock_getcpuclockid(3)``). A sample of one process takes some 3 µs, so ten a second cost 0.003 % of a core.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from autoinstr.bench.parts import NoiseFigures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

IS_LINUX = sys.platform.startswith("linux")

INTERVAL_S = 0.1
#: How often new children are looked for: a child that comes is counted whole, at most so much later.
RESCAN_S = 1.0
NOISE_INTERVAL_S = 0.5
#: It changes within milliseconds; a hundred looks in a second take half a percent of a core.
PACE_INTERVAL_S = 0.01
#: A sample that took longer was interrupted, and its moment is not known well; it is taken again.
LONGEST_SAMPLE_S = 0.001
TRIES = 3

_PROC = Path("/proc")
_SCHEDULED = 2  # CPUCLOCK_SCHED of linux/posix-timers_types.h: the time that the scheduler accounts, in nanoseconds.


# ---- Single processes ------------------------------------------------------------------------------


def cpu_ns(pid: int) -> int:
    """CPU time of a process and all its threads, ended ones too, in ns; a zombie still has it.

    Raises ProcessLookupError when it is gone. Source: the clock id of clock_getcpuclockid(3); elsewhere psutil.
    """
    if not IS_LINUX:
        return _portable_cpu_ns(pid)
    try:
        return time.clock_gettime_ns((~pid << 3) | _SCHEDULED)
    except OSError:
        raise ProcessLookupError(f"process {pid} has ended") from None


def cpu_resolution_ns() -> float:
    """The smallest step of the clock that ``cpu_ns`` reads, as the system states it."""
    if not IS_LINUX:
        return 1e9 / _ticks_per_second()
    return time.clock_getres((~os.getpid() << 3) | _SCHEDULED) * 1e9


class Memory(NamedTuple):
    """Resident bytes of some processes; ``pss_bytes`` shares out what they share, None where the system does not say."""

    rss_bytes: int
    pss_bytes: int | None


def memory(pids: Iterable[int], *, with_pss: bool = True) -> Memory:
    """Summed over the processes; ended ones count 0.

    PSS makes the kernel walk the page tables under the process's lock (0.2 ms for 30 MB): not within a window.
    """
    pids = list(pids)
    if not IS_LINUX:
        return Memory(sum(_portable(pid, lambda one: int(one.memory_info().rss)) or 0 for pid in pids), None)
    rss = sum(_resident_bytes(pid) for pid in pids)
    if not with_pss:
        return Memory(rss, None)
    shares = [_rollup_bytes(pid, b"Pss:") for pid in pids]
    known = [share for share in shares if share is not None]
    return Memory(rss, sum(known) if known else None)


def peak_rss_bytes(pid: int) -> int | None:
    """The most memory that was ever resident in a living process (VmHWM); None where the system does not say."""
    found = _status(_PROC / str(pid) / "status", b"VmHWM:")
    return None if found is None else found * 1024


def switches(pids: Iterable[int]) -> int | None:
    """Context switches so far, wanted or not, of the threads that live now; None where the system does not say."""
    if not IS_LINUX:
        return _summed(_portable(pid, lambda one: sum(one.num_ctx_switches())) for pid in pids)
    return _summed(
        _status(thread / "status", b"voluntary_ctxt_switches:", b"nonvoluntary_ctxt_switches:")
        for pid in pids
        for thread in _threads(pid)
    )


def threads(pids: Iterable[int]) -> int:
    """How many threads live in the processes together; an ended process has none."""
    if not IS_LINUX:
        return sum(_portable(pid, lambda one: int(one.num_threads())) or 0 for pid in pids)
    return sum(len(_threads(pid)) for pid in pids)


def descendants(pid: int) -> list[int]:
    """Children, their children and so on; not the process itself. Empty for an ended one."""
    if not IS_LINUX:
        return _portable(pid, lambda one: [int(child.pid) for child in one.children(recursive=True)]) or []
    found: list[int] = []
    ahead = [pid]
    while ahead:
        children = _children(ahead.pop())
        found += children
        ahead += children
    return found


def _summed(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _read(path: Path) -> bytes:
    """The content; nothing when the file, or its process, is not there, or is not ours to read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _status(path: Path, *names: bytes) -> int | None:
    """The sum of the named lines of a file of "name: number" lines; None when it has none of them."""
    found = [int(line.split()[1]) for line in _read(path).splitlines() if line.startswith(names)]
    return sum(found) if found else None


def _threads(pid: int) -> list[Path]:
    try:
        return list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    return [int(child) for thread in _threads(pid) for child in _read(thread / "children").split()]


def _resident_bytes(pid: int) -> int:
    pages = _read(_PROC / str(pid) / "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _rollup_bytes(pid: int, name: bytes) -> int | None:
    found = _status(_PROC / str(pid) / "smaps_rollup", name)
    return None if found is None else found * 1024


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 64


def _waited_ns(pid: int) -> int:
    """CPU of the ended children that a process has waited for, and of theirs: in clock ticks, mostly of 10 ms."""
    words = _read(_PROC / str(pid) / "stat").rpartition(b")")[2].split()
    # Fields 16 and 17 of proc_pid_stat(5); the first two end with the name that is cut away here.
    return (int(words[13]) + int(words[14])) * 10**9 // _ticks_per_second() if len(words) > 14 else 0


_T = TypeVar("_T")


def _portable(pid: int, ask: Callable[[Any], _T]) -> _T | None:
    """An answer of psutil's; None when the process is gone or not ours to ask."""
    import psutil

    try:
        return ask(psutil.Process(pid))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _portable_cpu_ns(pid: int) -> int:
    used_s = _portable(pid, lambda one: sum(one.cpu_times()[:2]))
    if used_s is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(used_s * 1e9)


# ---- Trees of processes ----------------------------------------------------------------------------


class Tree:
    """CPU of processes and all their descendants; never goes back.

    A child that ends keeps its last reading (at most one interval old), or what its parent's account of waited children
    says, where that is more: it holds what was used after the last reading, and children too short-lived to be seen, to two
    clock ticks (20 ms). A child whose parent does not wait (SIGCHLD ignored) loses what it used since its last reading.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self._last_ns: dict[int, int] = {}
        self._waited_ns: dict[int, int] = {}
        self._ended_ns = 0
        for root in roots:
            self._meet(root)
        self.look_for_children()
        # What ended before the beginning is not part of the series.
        self._ended_ns = 0

    def pids(self) -> list[int]:
        """Those that lived at the last look."""
        return list(self._last_ns)

    def read_ns(self) -> int:
        """CPU of all so far, in ns: differences of two readings mean something, one alone does not."""
        ended = [pid for pid in self._last_ns if not self._read(pid)]
        if ended:
            self._bury(ended)
        return self._ended_ns + sum(self._last_ns.values())

    def look_for_children(self) -> None:
        """Take in new descendants, also those of a member whose own parent has ended, and settle the waited ones."""
        self._settle(0, 0)
        ahead = list(self._last_ns)
        while ahead:
            new = [child for child in _children_anywhere(ahead.pop()) if child not in self._last_ns and self._meet(child)]
            ahead += new

    def _meet(self, pid: int) -> bool:
        try:
            self._last_ns[pid] = cpu_ns(pid)
        except ProcessLookupError:
            return False
        self._waited_ns[pid] = waited_ns = _waited_ns(pid)
        self._ended_ns += waited_ns
        return True

    def _read(self, pid: int) -> bool:
        """Whether it lives; a clock that went back is another process with the same number."""
        try:
            now_ns = cpu_ns(pid)
        except ProcessLookupError:
            return False
        if now_ns < self._last_ns[pid]:
            return False
        self._last_ns[pid] = now_ns
        return True

    def _bury(self, ended: Sequence[int]) -> None:
        own_ns = sum(self._last_ns.pop(pid) for pid in ended)
        inherited_ns = sum(self._waited_ns.pop(pid) for pid in ended)
        self._settle(own_ns, inherited_ns)

    def _settle(self, own_ns: int, inherited_ns: int) -> None:
        """Add what ended: by the parents' accounts (less what was counted before), but no less than was seen."""
        by_parents_ns = -inherited_ns
        for pid, before_ns in self._waited_ns.items():
            now_ns = max(before_ns, _waited_ns(pid))
            by_parents_ns += now_ns - before_ns
            self._waited_ns[pid] = now_ns
        self._ended_ns += max(own_ns, by_parents_ns)


def _children_anywhere(pid: int) -> list[int]:
    return _children(pid) if IS_LINUX else descendants(pid)


class Polled:
    """A thread that calls ``poll`` on an absolute schedule, on CPUs of its own where the system can pin a thread.

    Anybody else may call ``poll`` as well, to have a sample of now.
    """

    def __init__(self, interval_s: float, cpus: Iterable[int] | None) -> None:
        self._interval_s = interval_s
        self._cpus = frozenset(cpus or ())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._error: BaseException | None = None
        self._turn = threading.Lock()

    def poll(self) -> None:
        """Take one sample now. Samples of two threads keep their order."""
        with self._turn:
            self._sample()

    def _sample(self) -> None:
        raise NotImplementedError

    def start(self) -> Self:
        """Begin with one sample, so that the series covers everything from here on."""
        self.poll()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End with one sample. Raises what ended the thread early, if something did."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        self.poll()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            if self._cpus and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, self._cpus)  # 0 is this thread, not the process.
            due = time.monotonic() + self._interval_s
            while not self._ending.wait(max(0.0, due - time.monotonic())):
                self.poll()
                due = max(due + self._interval_s, time.monotonic())
        except BaseException as error:
            self._error = error


class CpuSeries(Polled):
    """CPU of named process trees over time, sampled every 100 ms; ask for any window afterwards.

    ``cpus`` are where the sampling thread runs: the generator's. An edge between two samples is interpolated, so that a window
    is off by at most the change of the rate within 100 ms.
    """

    def __init__(
        self, roots: Mapping[str, int], *, interval_s: float = INTERVAL_S, cpus: Iterable[int] | None = None
    ) -> None:
        super().__init__(interval_s, cpus)
        self._trees = {name: Tree([pid]) for name, pid in roots.items()}
        self._series: dict[str, list[tuple[float, float]]] = {name: [] for name in roots}
        self._rescan_at = time.monotonic() + RESCAN_S

    def _sample(self) -> None:
        if time.monotonic() >= self._rescan_at:
            self._rescan_at = time.monotonic() + RESCAN_S
            for tree in self._trees.values():
                tree.look_for_children()
        for name, tree in self._trees.items():
            self._series[name].append(_timed(tree.read_ns))

    def pids(self, name: str) -> list[int]:
        """The processes of a tree that lived at the last sample."""
        return self._trees[name].pids()

    def between(self, name: str, start_epoch_s: float, end_epoch_s: float) -> float:
        """CPU of the tree in the window, in µs. Raises ValueError for a window that was not sampled."""
        series = self._series[name]
        return (_at(series, end_epoch_s) - _at(series, start_epoch_s)) / 1000

    def span(self) -> tuple[float, float]:
        """Epoch seconds from which on, and up to which, windows of all trees can be asked for."""
        return max(one[0][0] for one in self._series.values()), min(one[-1][0] for one in self._series.values())


def _timed(read: Callable[[], _T]) -> tuple[float, _T]:
    """A reading and its moment; one that was interrupted is repeated."""
    for _ in range(TRIES):
        begun_s = time.time()
        value = read()
        ended_s = time.time()
        if ended_s - begun_s <= LONGEST_SAMPLE_S:
            break
    return (begun_s + ended_s) / 2, value


def _at(series: Sequence[tuple[float, float]], moment: float) -> float:
    """The value at a moment, linear between samples."""
    if not series or not series[0][0] <= moment <= series[-1][0]:
        sampled = f"{series[0][0]:.3f} to {series[-1][0]:.3f}" if series else "nothing"
        raise ValueError(f"{moment:.3f} was not sampled, only {sampled}")
    after = bisect_right(series, moment, key=lambda sample: sample[0])
    if after == len(series):
        return series[-1][1]
    (start, low), (end, high) = series[after - 1], series[after]
    return low + (high - low) * (moment - start) / (end - start)


# ---- The surroundings ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What the system has counted so far; None where it does not say."""

    at_s: float
    busy_s: float | None
    steal_s: float | None
    ours_s: float
    pressure_s: float | None
    throttled: int | None
    load_average: float | None


class Pace(Polled):
    """How fast the CPUs ``cpus`` work: what a fixed piece of work takes there, again and again; ask for any window afterwards.

    CPU time is no measure of work on a machine that is shared: beside a busy hyperthread, in a cache that others fill, at a lower
    clock the same instructions take up to twice their time, and nothing that the kernel counts (steal, pressure) shows it. The work is of the
    kind that a Python program does: bytecode over objects that fit into the second cache.
    """

    def __init__(self, cpus: Iterable[int], *, interval_s: float = PACE_INTERVAL_S) -> None:
        super().__init__(interval_s, cpus)
        self._objects = [{str(number): number for number in range(start, start + 40)} for start in range(150)]
        self._samples: list[tuple[float, float]] = []

    def _sample(self) -> None:
        # The first pass fetches what the measured program has pushed out of the caches, so that its appetite does not count.
        # Of the others the quicker one does: the program may want its CPU back, or an answer arrive, in the middle of a pass.
        self._work()
        begun_ns = time.thread_time_ns()
        self._work()
        between_ns = time.thread_time_ns()
        self._work()
        ended_ns = time.thread_time_ns()
        self._samples.append((time.time(), min(between_ns - begun_ns, ended_ns - between_ns) / 1000))

    def _work(self) -> int:
        total = 0
        for one in self._objects:
            for key in ("1", "50", "150"):
                total += one.get(key, 1)
        return total

    def between(self, start_epoch_s: float, end_epoch_s: float) -> float | None:
        """CPU of one piece of work in the window, in µs, on the average; None where there was no sample."""
        samples = self._samples
        first = bisect_right(samples, (start_epoch_s, math.inf))
        last = bisect_right(samples, (end_epoch_s, math.inf))
        return fmean(value for _, value in samples[first:last]) if last > first else None


class Noise(Polled):
    """What else goes on on the CPUs ``cpus``, sampled twice a second; ask for any window afterwards.

    ``ours`` are the roots of what is not foreign, or a function that lists them now; all their descendants belong to them. By
    default this process is the root, which covers all that it has started. CPU of others is what these CPUs were busy less
    what ours used anywhere, so it is too small when ours run elsewhere, too; work in interrupts counts as busy only where
    the kernel charges it to processes as well. The counters move in ticks of 10 ms.
    """

    def __init__(
        self,
        cpus: Iterable[int],
        ours: Iterable[int] | Callable[[], Iterable[int]] | None = None,
        *,
        interval_s: float = NOISE_INTERVAL_S,
    ) -> None:
        super().__init__(interval_s, None)
        self._watched = frozenset(cpus)
        self._tree = Tree([os.getpid()] if ours is None else ours() if callable(ours) else ours)
        self._throttling = _throttling_file()
        self._looks: list[_Look] = []

    def _sample(self) -> None:
        self._tree.look_for_children()
        at_s, look = _timed(self._look)
        self._looks.append(_Look(at_s, *look))

    def _look(self) -> tuple[float | None, float | None, float, float | None, int | None, float | None]:
        busy_s, steal_s = busy_and_steal_s(self._watched)
        return busy_s, steal_s, self._tree.read_ns() / 1e9, _pressure_s(), self._throttled(), _load_average()

    def _throttled(self) -> int | None:
        return None if self._throttling is None else _field(_read(self._throttling), b"nr_throttled")

    def between(self, start_epoch_s: float, end_epoch_s: float) -> NoiseFigures:
        """The noise of a window. Raises ValueError for one that was not sampled, or is empty."""
        seconds = end_epoch_s - start_epoch_s
        if seconds <= 0:
            raise ValueError("the window is empty")
        looks = list(self._looks)

        def change(name: str) -> float | None:
            series = [(look.at_s, getattr(look, name)) for look in looks]
            if any(value is None for _, value in series):
                return None
            return _at(series, end_epoch_s) - _at(series, start_epoch_s)

        busy_s, steal_s, ours_s, waiting_s = map(change, ("busy_s", "steal_s", "ours_s", "pressure_s"))
        throttled = change("throttled")
        last = next((look for look in looks if look.at_s >= end_epoch_s), looks[-1])
        return NoiseFigures(
            steal=None if steal_s is None else steal_s / seconds / max(1, len(self._watched)),
            psi=None if waiting_s is None else min(1.0, waiting_s / seconds),
            other_cores=None if busy_s is None or ours_s is None else max(0.0, busy_s - ours_s) / seconds,
            load_average=last.load_average,
            throttled=None if throttled is None else round(throttled),
        )

    def figures(self) -> NoiseFigures:
        """The noise from the first to the last sample."""
        return self.between(self._looks[0].at_s, self._looks[-1].at_s)


def busy_and_steal_s(cpus: Iterable[int]) -> tuple[float | None, float | None]:
    """Seconds that the CPUs have worked since the machine started, and that the hypervisor took; proc_stat(5)."""
    wanted = {b"cpu%d" % cpu for cpu in cpus}
    lines = [line.split() for line in _read(_PROC / "stat").splitlines() if line.startswith(b"cpu")]
    if not lines or len(lines[0]) < 9:
        return None, None
    # A kernel that measures interrupts does not charge them to whoever was interrupted; one that does not is hardly ever
    # found in a hard interrupt by the tick.
    user, _, system, _, _, irq = map(int, lines[0][1:7])
    counted = (1, 2, 3) if irq * 1000 > user + system else (1, 2, 3, 6, 7)
    rows = [[int(word) for word in line[1:]] for line in lines if line[0] in wanted]
    ticks = _ticks_per_second()
    return sum(row[i - 1] for row in rows for i in counted) / ticks, sum(row[7] for row in rows) / ticks


def _pressure_s() -> float | None:
    """Seconds in which at least one task was runnable and had no CPU, on the whole machine (PSI "some")."""
    for line in _read(_PROC / "pressure" / "cpu").splitlines():
        if line.startswith(b"some"):
            return int(line.rpartition(b"total=")[2]) / 1e6
    return None


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _throttling_file() -> Path | None:
    """The ``cpu.stat`` with ``nr_throttled`` of this process's control group, version 2 or 1; None when there is none."""
    for folder in cgroup_folders("cpu"):
        if _field(_read(folder / "cpu.stat"), b"nr_throttled") is not None:
            return folder / "cpu.stat"
    return None


def cgroup_folders(controller: str) -> list[Path]:
    """Where this process's control group may keep its files, the likeliest first; cgroups(7).

    In a container the path that the kernel states may be one that is not mounted: then the root of the mount is ours.
    """
    found: list[Path] = []
    for line in _read(_PROC / "self" / "cgroup").decode().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = (controller, controllers) if controllers else ("", "unified")
        for mount in mounts:
            base = Path("/sys/fs/cgroup", mount)
            found += [base / path.lstrip("/"), base]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _field(content: bytes, name: bytes) -> int | None:
    for line in content.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return None
