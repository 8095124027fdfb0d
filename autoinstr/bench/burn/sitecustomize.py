"""The start of the burner inside a process: Python's ``site`` imports this file, because PYTHONPATH leads to it.

Owns: the start, and the disappearance afterwards: ``sys.path`` and ``sys.modules["sitecustomize"]`` end as without us.
Must not know: what is burned, where.
Invariants: where the burner cannot work, the program does not start: a control that silently does nothing would pass.
"""

import os
import sys


def step_aside() -> object:
    """Import the ``sitecustomize`` that would have been found without this one; raises what that import raises.

    Returns this module, so that it lives until its own import has ended.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    this = sys.modules.pop("sitecustomize", None)
    __import__("sitecustomize")
    return this


if __name__ == "sitecustomize":
    try:
        __import__("_autoinstr_burn").start(os.environ)
    except Exception as error:
        # ``site`` would print any other exception and go on.
        raise SystemExit(f"burn: {type(error).__name__}: {error}") from error
    step_aside()
