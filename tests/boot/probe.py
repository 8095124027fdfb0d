"""Prints, as JSON, all that a program can easily see of the process it runs in."""

import json
import os
import sys


def _ascii(value):
    return ascii(value)


def _signals():
    with open("/proc/self/status") as status:
        return [line.split() for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]


def _descriptors():
    return sorted(os.readlink("/proc/self/fd/" + name).split(":")[0] for name in os.listdir("/proc/self/fd")[:-1])


#: What the agent leaves in the environment, for the children of the program.
OURS = {"PYTHONPATH", "_AUTOINSTR_PROGRAM"}

facts = {
    "pid": os.getpid(),
    "parent": os.getppid(),
    "argv": _ascii(sys.argv),
    "orig_argv": _ascii([word for word in sys.orig_argv]),
    "path": sys.path,
    "flags": str(sys.flags),
    "xoptions": sys._xoptions,
    "warnoptions": sys.warnoptions,
    "executable": sys.executable,
    "prefix": sys.prefix,
    "excepthook": repr(sys.excepthook.__name__),
    "main": {
        name: _ascii(value)
        for name, value in globals().items()
        if name in ("__name__", "__file__", "__package__", "__cached__", "__doc__", "__annotations__")
    },
    "loader": _ascii(getattr(__loader__, "__name__", type(__loader__).__name__)),
    "spec": __spec__ and (__spec__.name, __spec__.origin, __spec__.parent),
    "is main": sys.modules["__main__"].__dict__ is globals(),
    "names": sorted(name for name in globals() if name != "facts"),
    "sitecustomize": "sitecustomize" in sys.modules,
    "environ": {_ascii(name): _ascii(os.environ[name]) for name in sorted(set(os.environ) - OURS)},
    "encodings": [sys.stdout.encoding, sys.stdout.errors, sys.stdin.errors, sys.getfilesystemencoding()],
    "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
    "cwd": os.getcwd(),
    "umask": os.umask(0o22),
    "group": os.getpgrp() == os.getpid(),
    "signals": _signals(),
    "descriptors": _descriptors(),
    "stdin": _ascii(sys.stdin.read()),
}
print(json.dumps(facts))
