"""Keeps the generator's cores busy with nothing, so that the server's work at the same speed whatever the variant is.

Owns: the processes that do nothing, and how they stay out of everybody's way.
Must not know: what is measured meanwhile.
Invariants: they run only where nobody else wants to (SCHED_IDLE), and not at all where the system cannot promise that; they
end with this process, however it ends.

Why: a generator waits more while it measures a dear variant than a cheap one. Where its core is the other hyperthread of the
server's (inside a virtual machine nobody can tell), the server is the faster for it, up to a third: dear variants seem cheaper.
A virtual CPU that sleeps is given to others, too, and costs an exit to the hypervisor to wake. With its neighbour always busy, the
server meets one condition only, and what the pace of its CPUs (``probe.Pace``) shows is what the server gets.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

#: Desktop scheduling gives each session its share, so that an idle task alone in its session is none: the session must be nice.
_FILLER = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
try:
    with open("/proc/self/autogroup", "w") as group:
        group.write("19")
except FileNotFoundError:
    pass
except OSError:
    sys.exit(1)
parent = int(sys.argv[2])
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


def is_possible() -> bool:
    """Whether the system has a class of tasks that yields to all others."""
    return hasattr(os, "SCHED_IDLE") and hasattr(os, "sched_setaffinity")


@contextlib.contextmanager
def kept(cpus: Iterable[int]) -> Iterator[None]:
    """The CPUs have work as long as the block takes; nothing happens where that is not possible."""
    fillers: list[subprocess.Popen[bytes]] = []
    try:
        for cpu in cpus if is_possible() else ():
            words = [sys.executable, "-I", "-S", "-c", _FILLER, str(cpu), str(os.getpid())]
            fillers.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        yield
    finally:
        for filler in fillers:
            filler.kill()
        for filler in fillers:
            filler.wait()
