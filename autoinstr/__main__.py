"""The command line: ``python -m autoinstr PROGRAM`` makes a program's processes start the agent, then becomes the program.

Owns: what the command line means, how a program is found, the exec, and the run inside this process where exec cannot
carry the agent along (``python -E``, ``-I``, ``-S``).
Must not know: what the agent does; any variable but PYTHONPATH, the service name and the locale's.
Invariants: from the first word that is not an option of ours, the command line belongs to the program and reaches it
byte for byte; no process of ours stays between the program and who started it (except on Windows, where exec does not
keep the process); nothing is imported before exec but ``sys``, ``os`` and what they need, for every program pays for it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import CodeType, ModuleType, TracebackType

USAGE = """\
usage: python -m autoinstr [run] [OPTIONS] PROGRAM [ARGUMENTS...]
       python -m autoinstr {serve,export,bench,doctor} ...

Run a program and trace it, without a change to its code.

PROGRAM is what follows "python" or a shell prompt otherwise:
  app.py  folder  app.pyz    a file, or a folder or archive with __main__.py
  -m MODULE  -c CODE  -      a module, code, standard input
  gunicorn  ./script         a command, looked up as the shell does it

options:
  --service NAME   name of the service in the traces (sets OTEL_SERVICE_NAME)
  --ui             start "autoinstr serve" if none runs, leave it running, and print where to look at the traces
  --               end of the options
  --version        print the version
  -h, --help       print this text

commands:
  serve            receive, store and show traces
  export           write stored traces to a Parquet file
  bench            measure the cost of tracing
  doctor           check the set-up; "doctor --path" prints what to put on PYTHONPATH
Options of Python go before "-m autoinstr": python -X dev -m autoinstr app.py
"""

#: Statuses of a shell for a command that cannot be executed, and for one that cannot be found (POSIX, "Shell Command
#: Language", 2.8.2); 2 is the usual one for a wrong command line.
NOT_EXECUTABLE, NOT_FOUND, WRONG_USAGE = 126, 127, 2

#: Subcommand: its module, and what to install when something that the module imports is missing.
_ROOMS = {
    "serve": ("autoinstr.backend.app", "autoinstr[backend]"),
    "export": ("autoinstr.backend.store.parquet", "autoinstr[parquet]"),
    "bench": ("autoinstr.bench.app", "autoinstr[bench]"),
    "doctor": ("autoinstr.doctor", "autoinstr"),
}

_FOR_PYTHON = (".py", ".pyw", ".pyz", ".zip")


class Refusal(Exception):
    """Why the program is not run: ``Refusal(line for stderr, exit status)``."""


def main() -> int:
    """Carry out ``sys.argv``; the exit status, if this process still exists afterwards."""
    _drop_current_folder()
    words = sys.argv[1:]
    try:
        if words and words[0] in _ROOMS:
            return _enter(words[0], words[1:])
        return _run(words[1:] if words[:1] == ["run"] else words)
    except Refusal as refusal:
        line, status = refusal.args
        sys.stderr.write(f"autoinstr: {line}\n")
        return int(status)


def boot_folder() -> str:
    """The folder that starts the agent in every Python that has it on PYTHONPATH."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "_boot")


def traced_environment(environ: Mapping[str, str], service: str = "") -> dict[str, str]:
    """``environ`` with the agent in it: our folder once, in front of what is on PYTHONPATH already."""
    result = dict(environ)
    before = result.get("PYTHONPATH")
    folder = boot_folder()
    # An empty entry means the current folder: the user's stay, but none may come from us.
    others = [entry for entry in before.split(os.pathsep) if entry != folder] if before else []
    result["PYTHONPATH"] = os.pathsep.join([folder, *others])
    if service:
        result["OTEL_SERVICE_NAME"] = service
    return result


def interpreter_flags(orig_argv: Sequence[str], arguments: int, *, as_module: bool) -> list[str]:
    """The options of Python itself in ``orig_argv``, a whole command line that ends in ``arguments`` words for us.

    Before those stands either what names this module (``-m autoinstr``, ``-mautoinstr``, ``-um autoinstr``) or a script.
    """
    head = list(orig_argv[1 : len(orig_argv) - arguments])
    last = head.pop() if head else ""
    if not as_module:
        return head
    if not last.startswith("-") and head:
        last = head.pop()
    cluster = last.partition("m")[0]
    return [*head, cluster] if len(cluster) > 1 else head


def _drop_current_folder() -> None:
    """Take back what ``python -m`` put on ``sys.path``: a program's ``wrapt.py`` or ``platform.py`` is not for us."""
    try:
        current = os.getcwd()
    except OSError:
        return
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if _is_module() and sys.path[:1] == [current]:
        del sys.path[0]
        if current == root and root not in sys.path:
            _say("is not installed in this Python, only found in the current folder: the program will not be traced")


def _is_module() -> bool:
    return __name__ == "__main__" and __spec__ is not None


def _say(line: str) -> None:
    sys.stderr.write(f"autoinstr: {line}\n")


def _enter(command: str, words: list[str]) -> int:
    """Run a subcommand. The modules are imported by name, for each is there only where its extra is installed."""
    from importlib import import_module

    module, distribution = _ROOMS[command]
    try:
        room = import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise Refusal(f"{command} is not part of this version yet", WRONG_USAGE) from None
        raise Refusal(f"{command} needs {error.name}: pip install '{distribution}'", WRONG_USAGE) from None
    return int(room.main(words) or 0)


def _run(words: list[str]) -> int:
    """Become the program that ``words`` name; returns where there is none, or nothing to replace this process by."""
    service, with_interface, target = _options(words)
    if not target:
        return _print_and_leave(words)
    environ = traced_environment(os.environ, service)
    if with_interface:
        from autoinstr.backend import launch

        _say(launch.ready())
        environ = launch.with_first_trace(environ)
    flags = interpreter_flags(sys.orig_argv, len(sys.argv) - 1, as_module=_is_module())
    if not _is_for_python(target[0]):
        return _become(_find(target[0]), target, environ)
    command = [sys.orig_argv[0], *flags, *target]
    if (sys.flags.ignore_environment or sys.flags.no_site) and _exists(target):
        return _run_here(target, environ, command)
    return _become(sys.executable, command, environ)


def _options(words: list[str]) -> tuple[str, bool, list[str]]:
    """(service name or nothing, whether a web interface is wanted, the program and its arguments).

    The program is missing where only a text is wanted.
    """
    service = ""
    with_interface = False
    rest = list(words)
    while rest:
        word = rest[0]
        if word == "-" or not word.startswith("-") or word[:2] in ("-m", "-c"):
            break
        del rest[0]
        if word == "--":
            break
        if word in ("-h", "--help", "--version"):
            return service, with_interface, []
        if word == "--ui":
            with_interface = True
            continue
        name, equals, value = word.partition("=")
        if name != "--service":
            raise Refusal(f"unknown option {word} (options of Python go before -m autoinstr; see --help)", WRONG_USAGE)
        if not equals:
            value = rest.pop(0) if rest else ""
        if not value:
            raise Refusal("--service needs a name", WRONG_USAGE)
        service = value
    return service, with_interface, rest


def _print_and_leave(words: Sequence[str]) -> int:
    """Print what was asked for, or how to ask."""
    if "--version" in words:
        from autoinstr import __version__

        print(f"autoinstr {__version__}")
        return 0
    asked = "-h" in words or "--help" in words
    (sys.stdout if asked else sys.stderr).write(USAGE)
    return 0 if asked else WRONG_USAGE


def _is_for_python(word: str) -> bool:
    """Whether ``word`` follows ``python`` in the command line meant, rather than standing for itself.

    A name without a slash that both a command and a folder have is the command's: a checkout of ``gunicorn`` must not
    hide the program ``gunicorn``. A ``.py`` file that is nowhere is left to Python, which says so as it always does.
    """
    if word.startswith("-"):
        return True
    if word.endswith(_FOR_PYTHON):
        return os.path.isfile(word) or not _is_command(word)
    return os.path.isfile(os.path.join(word, "__main__.py")) and not _is_command(word)


def _is_command(word: str) -> bool:
    try:
        return bool(_find(word))
    except Refusal:
        return False


def _find(word: str) -> str:
    """The path of a command: beside this Python first, then by PATH as a shell does it.

    ``.venv/bin/python -m autoinstr gunicorn`` means that environment's gunicorn, activated or not; another Python's would
    run without the agent.
    """
    if os.name == "nt":  # Not tested: extensions and the registry have their own rules there.
        from shutil import which

        found = which(word, path=os.path.dirname(sys.executable)) or which(word)
        candidates = [found] if found else []
    elif "/" in word:
        candidates = [word]
    else:
        folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
        candidates = [os.path.join(folder, word) for folder in folders if word]
    files = [candidate for candidate in candidates if os.path.isfile(candidate)]
    for file in files:
        if os.access(file, os.X_OK):
            return file
    if files:
        hint = f"python -m autoinstr python {files[0]}"
        raise Refusal(f"{files[0]}: not executable (to give it to Python all the same: {hint})", NOT_EXECUTABLE)
    if "/" in word and os.path.isdir(word):
        raise Refusal(f"{word}: a folder without __main__.py", NOT_EXECUTABLE)
    raise Refusal(f"{word or repr(word)}: command not found", NOT_FOUND)


def _become(file: str, argv: list[str], environ: dict[str, str]) -> int:
    """Replace this process."""
    if os.name == "nt":
        return _spawn(file, argv, environ)
    _undo_interpreter_start(environ)
    try:
        try:
            os.execve(file, argv, environ)
        except OSError as error:
            import errno

            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line that names its interpreter: a shell runs it itself.
            os.execve("/bin/sh", ["sh", file, *argv[1:]], environ)
    except OSError as error:
        raise Refusal(f"{file}: {error.strerror}", NOT_EXECUTABLE) from None


def _undo_interpreter_start(environ: dict[str, str]) -> None:
    """Take back what Python did to this process at its start and exec would hand on to the program.

    Python ignores two signals, and ignored signals stay ignored. In the C locale it sets LC_CTYPE to a UTF-8 locale
    (PEP 538) and goes to UTF-8 mode (PEP 540); finding that LC_CTYPE, the next Python would not go to UTF-8 mode.
    """
    import _signal  # type: ignore[import-not-found]  # (``signal`` would cost the import of ``enum``.)

    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
    asked_for = "utf8" in sys._xoptions or (os.environ.get("PYTHONUTF8") and not sys.flags.ignore_environment)
    # From 3.15 on UTF-8 mode is on everywhere (PEP 686) and says nothing about the locale.
    if sys.flags.utf8_mode and not asked_for and sys.version_info < (3, 15):
        if environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
            environ["LC_CTYPE"] = "C"


def _spawn(file: str, argv: Sequence[str], environ: dict[str, str]) -> int:
    """Run the program as a child: on Windows exec makes a new process and lets the caller believe that all is over."""
    import subprocess

    child = subprocess.Popen([file, *argv[1:]], env=environ)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # The console sent it to the child as well, which decides what to do.
            continue


def _exists(target: Sequence[str]) -> bool:
    return target[0].startswith("-") or os.path.exists(target[0])


def _run_here(target: list[str], environ: Mapping[str, str], command: list[str]) -> int:
    """Run the program in this process: a Python that ignores PYTHONPATH or ``site`` would start without the agent.

    As far as can be arranged the program finds what it would find without us; its own children are traced unless they
    are started with the same options.
    """
    from autoinstr._boot import sitecustomize

    os.environ.update(environ)
    sys.orig_argv = command
    sitecustomize.start()
    sys.modules["__main__"] = module = _fresh_main()
    try:
        _run_as_main(target, module.__dict__)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook = _hook_without_our_frames()
        raise
    return 0


def _fresh_main() -> ModuleType:
    """A ``__main__`` as Python makes it."""
    import builtins
    from importlib.machinery import BuiltinImporter

    module = type(sys)("__main__")
    module.__dict__.update(__builtins__=builtins, __loader__=BuiltinImporter)
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    return module


def _run_as_main(target: list[str], namespace: dict[str, object]) -> None:
    """Do what Python does with ``target``, ``-m``, ``-c`` and ``-`` included, in the fresh namespace of ``__main__``."""
    word, arguments = target[0], target[1:]
    if word[:2] in ("-m", "-c"):
        text = word[2:] or (arguments.pop(0) if arguments else "")
        sys.argv = [word[:2], *arguments]
        if word[:2] == "-m":
            return _run_module(text, os.getcwd())
        return _run_code(compile(text, "<string>", "exec", dont_inherit=True), "", namespace)
    sys.argv = list(target)
    if word == "-":
        namespace.update(__file__="<stdin>", __cached__=None)
        return _run_code(compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True), "", namespace)
    path = os.path.abspath(word)
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        return _run_module("__main__", path, always=True)
    from importlib.machinery import SourceFileLoader

    loader = SourceFileLoader("__main__", path)
    namespace.update(__file__=path, __cached__=None, __loader__=loader)
    # Not ``loader.get_code``: Python leaves no compiled file beside a script.
    code = compile(loader.get_data(path), path, "exec", dont_inherit=True)
    return _run_code(code, os.path.dirname(os.path.realpath(path)), namespace)


def _run_module(name: str, folder: str, *, always: bool = False) -> None:
    import runpy

    _put_first(folder, always=always)
    # What Python itself calls for -m, folders and archives; nothing public fills ``__main__`` without restoring it.
    runpy._run_module_as_main(name, alter_argv=name != "__main__")  # type: ignore[attr-defined]


def _run_code(code: CodeType, folder: str, namespace: dict[str, object]) -> None:
    _put_first(folder)
    exec(code, namespace)  # noqa: S102 (this is the program)


def _put_first(folder: str, *, always: bool = False) -> None:
    """Give ``sys.path`` the program's folder, unless Python was told not to (``-I``, ``-P``)."""
    if always or not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, folder)


def _hook_without_our_frames() -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """The current ``sys.excepthook``, which then sees the traceback as it is without the launcher."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        kept = position = trace
        while position is not None:
            if position.tb_frame.f_code.co_filename == __file__:
                kept = position.tb_next
            position = position.tb_next
        sys.excepthook = show
        show(kind, error.with_traceback(kept), kept)

    return hook


if __name__ == "__main__":
    sys.exit(main())
