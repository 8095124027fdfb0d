"""A server that takes seconds to start, once for all processes of a test run.

Owns: who starts it, who uses it, when it ends.
Must not know: what the server is.
Invariants: each user holds a shared lock on one file, which the kernel lets go of however the user ends; a keeper, a process
of its own, stops the server as soon as it gets the exclusive lock, so that nothing is left behind. Nothing but the keeper ever
ends the server.

As a program (``shared.py USERS ADDRESS FAILED COMMAND …``) this file is the keeper.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

#: How often the keeper looks, and what a server may take to start on a busy machine and to end.
LOOK_S, START_S, END_S = 0.2, 90, 10


@contextmanager
def shared_server(
    name: str, folder: Path, command: Sequence[str], environ: Mapping[str, str], port: int, path: str
) -> Iterator[int]:
    """The port of the server; ``{port}`` in command and environment stands for it. ``path`` answers when it is well.

    ``folder`` is the same for all processes of the run. The port is the first user's.
    """
    paths = [folder / f"{name}.{what}" for what in ("users", "address", "failed")]
    with open(paths[0], "a") as users, open(folder / f"{name}.start", "a") as start:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(start, fcntl.LOCK_EX)
        if not paths[1].exists():
            words = [word.format(port=port) for word in command]
            added = {name: value.format(port=port) for name, value in environ.items()}
            _start(paths, words, added, port, path)
        fcntl.flock(start, fcntl.LOCK_UN)
        yield int(paths[1].read_text())


def _start(paths: list[Path], command: list[str], environ: Mapping[str, str], port: int, path: str) -> None:
    from .contract import HOST, PREFIXES, answers

    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    keeper = [sys.executable, __file__, *map(str, paths), *command]
    log_path = paths[0].with_suffix(".log")
    with open(log_path, "ab") as log:
        # Returns at once: the keeper is no child of ours, since it may have to outlive us.
        subprocess.run(keeper, env={**inherited, **environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    deadline = time.monotonic() + START_S
    while not answers(f"http://{HOST}:{port}{path}"):
        said = log_path.read_text(errors="replace")[-4000:]
        assert not paths[2].exists(), f"{command[0]} has ended: {said}"
        assert time.monotonic() < deadline, f"{command[0]} did not answer at port {port} within {START_S} s: {said}"
        time.sleep(LOOK_S / 2)
    paths[1].write_text(str(port))


def keep(users_path: str, address_path: str, failed_path: str, command: Sequence[str]) -> None:
    """Run the command until nobody holds the users' lock."""
    with suppress(FileNotFoundError):
        os.unlink(failed_path)
    if os.fork():
        os._exit(0)
    os.setsid()
    with open(users_path, "a") as users:
        server = subprocess.Popen(command)
        while server.poll() is None:
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(LOOK_S)
        else:
            Path(failed_path).touch()
        # While the lock is held: who comes now waits, finds no address, and starts another one.
        with suppress(FileNotFoundError):
            os.unlink(address_path)
        server.terminate()
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    keep(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
