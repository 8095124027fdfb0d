"""The start of the agent inside a traced process: Python's ``site`` imports this file, because PYTHONPATH leads to it.

Owns: whether this interpreter is one to trace, the call of ``runtime.start``, and the disappearance afterwards: the
program's ``sys.path`` and ``sys.modules["sitecustomize"]`` end as they would be without us.
Must not know: what the agent does, or any variable.
Invariants: valid for every Python from 2.7 on, for the children of a traced program may be any; never raises on its own
account; at most one line on stderr; this folder holds nothing else that can be imported.
"""

import os
import sys


def start():
    # type: () -> None
    """Start the agent in this interpreter, or leave it alone where the agent cannot work; never raises.

    Silent in a Python that is too old or has no ``autoinstr`` (a tool of another environment, started by the program).
    """
    if sys.version_info < (3, 10) or not _in_main_interpreter():
        return
    try:
        import autoinstr.runtime

        autoinstr.runtime.start(os.environ)
    except KeyboardInterrupt:
        raise  # Not ours: somebody wants this process to end.
    except BaseException as error:  # noqa: BLE001  # Host safety: the program has to run, whatever became of the agent.
        if getattr(error, "name", None) != "autoinstr":
            _tell(error)


def _in_main_interpreter():
    # type: () -> bool
    """``site`` runs in each sub-interpreter too, but threads, forks and C extensions of ours must not live there."""
    # CPython names no cheap test before 3.12. Signal 0 is always refused, and the reason given tells the two cases apart.
    import _signal  # type: ignore[import-not-found]

    try:
        _signal.signal(0, _signal.SIG_DFL)
    except ValueError as error:
        return "main interpreter" not in str(error)
    return True


def _tell(error):
    # type: (BaseException) -> None
    fault = type(error).__name__ + ": " + " ".join(str(error).split())
    try:
        sys.stderr.write("autoinstr: could not start (" + fault + "); the program runs without tracing\n")
        sys.stderr.flush()
    except Exception:  # noqa: BLE001, S110  # Host safety: stderr may be closed, and nobody is there to be told.
        pass


def step_aside():
    # type: () -> object
    """Import the ``sitecustomize`` that would have been found without this one, under its name.

    Raises what that import raises: ``site`` reports it, or is quiet when there is none, as it would without us.
    Returns this module, which Python 2 would empty if nobody held it any longer.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    # ``site`` has made all entries absolute by now.
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    this = sys.modules.pop("sitecustomize", None)
    __import__("sitecustomize")
    return this


if __name__ == "sitecustomize":  # Otherwise the launcher wants ``start`` alone.
    start()
    step_aside()
