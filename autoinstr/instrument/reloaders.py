"""Development reloaders that kill the serving process: it is asked to end first, so that its last spans are sent.

The reloaders of werkzeug (``flask run --debug``) and Django (``runserver``) wait in ``subprocess.run`` for the process that
serves. When they get SIGTERM they leave by ``SystemExit``, at which ``subprocess`` kills that process with SIGKILL: nothing in
there can be sent any more. Both let it handle SIGTERM, for a process group's signal reaches it, too.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

#: How often we look whether the serving process has ended.
LOOK_EVERY_S = 0.005


def patch_werkzeug(patcher: Patcher, tracing: Tracing) -> None:
    """All kinds of its loops inherit this."""
    patcher.wrap("ReloaderLoop.restart_with_reloader", end_child_first(tracing))


def patch_django(patcher: Patcher, tracing: Tracing) -> None:
    """The function in which the parent lives."""
    patcher.wrap("restart_with_reloader", end_child_first(tracing))


def end_child_first(tracing: Tracing) -> Callable[[Any], Callable[..., Any]]:
    """While the parent waits, its handler of SIGTERM passes the signal on, waits for a while, and does what it did before."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def restart_with_reloader(*arguments: Any, **keywords: Any) -> Any:
            try:
                _pass_sigterm_on(tracing.config.exit_timeout_s)
            except Exception as error:  # Host safety: spans may be lost, reloading goes on.
                fault("the reloader's SIGTERM", error)
            return wrapped(*arguments, **keywords)

        return restart_with_reloader

    return make


def _pass_sigterm_on(patience_s: float) -> None:
    import os
    import signal

    previous = signal.getsignal(signal.SIGTERM)
    if not callable(previous) or not hasattr(os, "waitid"):
        return

    def on_sigterm(number: int, frame: FrameType | None) -> Any:
        try:
            child = _child_waited_for(frame)
            if child is not None:
                os.kill(child, number)
                _wait_for(child, patience_s)
        except Exception as error:  # Host safety: the reloader ends in any case.
            fault("the reloader's SIGTERM", error)
        return previous(number, frame)

    signal.signal(signal.SIGTERM, on_sigterm)


def _child_waited_for(frame: FrameType | None) -> int | None:
    """The process that the interrupted ``Popen.wait`` waits for; ``subprocess.run`` keeps it to itself."""
    from subprocess import Popen

    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Popen) and owner.returncode is None:
            return owner.pid
        frame = frame.f_back
    return None


def _wait_for(child: int, patience_s: float) -> None:
    """Until a process has ended, which is left for ``subprocess`` to collect."""
    import os
    from time import monotonic, sleep

    until = monotonic() + patience_s
    while monotonic() < until and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        sleep(LOOK_EVERY_S)
