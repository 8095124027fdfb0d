"""The name of the program, from the command line of its process: what a service is called that nobody has named.

Owns: how CPython's command line is read; which servers and task runners are named after the application they are given.
Must not know: the variables that name a service, this process.
"""

from __future__ import annotations

from autoinstr.config.table import PROGRAM_VARIABLE
from autoinstr.config.value import DEFAULTS, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SERVERS = frozenset(("gunicorn", "uvicorn", "hypercorn", "daphne", "granian", "waitress-serve"))
#: Options of these servers whose values look like an application.
_MISLEADING_OPTIONS = frozenset(
    ("-b", "--bind", "-c", "--config", "-u", "--uds", "-k", "--worker-class", "--log-config")
)
_GENERIC_MODULES = frozenset(("main", "app", "wsgi", "asgi", "__init__", "__main__"))


def program_name(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """A name for the service from the command line of its process (``sys.orig_argv``); never empty.

    A server or task runner is named after the application it is given: ``python -m uvicorn shop.main:app`` is "shop".
    """
    environ = environ or {}
    program, rest = _split_command(list(argv))
    if program.startswith("-c"):
        inherited = environ.get(PROGRAM_VARIABLE, "") if "from multiprocessing" in program else ""
        return inherited or "python"
    if not program:
        return str(DEFAULTS["service_name"])
    folder, _, file = clean(program).replace("\\", "/").rstrip("/").rpartition("/")
    name = _stem(file)
    if name == "autoinstr" and rest:
        return program_name(["python", *rest], environ)
    if name == "manage" and file.endswith(".py"):
        name = folder.rpartition("/")[2].strip(".") or "django"
    elif name == "__main__":
        name = folder.rpartition("/")[2]
    else:
        name = _application_name(_application(name, rest, environ)) or name
    return name.strip(". ") or str(DEFAULTS["service_name"])


def _split_command(argv: list[str]) -> tuple[str, list[str]]:
    """(script, first part of the module, or "-c" and the code; what follows), as CPython reads its command line."""
    position = 1
    while position < len(argv):
        word = argv[position]
        position += 1
        if word == "-":
            return "-c", argv[position:]
        if not word.startswith("-"):
            return word, argv[position:]
        if word == "--check-hash-based-pycs":
            position += 1
        if word.startswith("--"):
            continue
        letter, value = _option_with_value(word)
        if letter and not value:
            value = argv[position] if position < len(argv) else ""
            position += 1
        if letter == "c":
            return "-c" + value, argv[position:]
        if letter == "m":
            return value.partition(".")[0], argv[position:]
    return ("-c", []) if argv else ("", [])


def _option_with_value(word: str) -> tuple[str, str]:
    """The option that takes a value in a cluster of short options, and what follows it there: "-um" is ("m", "")."""
    for index, letter in enumerate(word):
        if letter in "cmWX":
            return letter, word[index + 1 :]
    return "", ""


def _stem(file: str) -> str:
    for suffix in (".py", ".pyc", ".pyw", ".pyz", ".zip", ".exe"):
        if file.lower().endswith(suffix):
            return file[: -len(suffix)]
    return file


def _application(program: str, arguments: list[str], environ: Mapping[str, str]) -> str:
    """The application that a server or task runner is told to load, or ""."""
    if program in _SERVERS:
        return _server_application(arguments)
    if program in ("celery", "flask"):
        return _option_value(arguments, "-A", "--app") or (environ.get("FLASK_APP", "") if program == "flask" else "")
    if program == "fastapi":
        return next((word for word in arguments if word.endswith(".py")), "")
    return ""


def _server_application(arguments: list[str]) -> str:
    words = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not word.startswith("-") and before not in _MISLEADING_OPTIONS
    ]
    # Values of options stand between them, so "module:attribute" is the surest sign, then the place.
    for word in words:
        module, colon, attribute = word.partition(":")
        if colon and _is_module(module) and attribute[:1].isidentifier():
            return word
    places = [*arguments[:1], *words[-1:]]
    return next((word for word in places if _is_module(word)), "")


def _is_module(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _option_value(arguments: list[str], short: str, long: str) -> str:
    for position, word in enumerate(arguments):
        if word in (short, long):
            return arguments[position + 1] if position + 1 < len(arguments) else ""
        if word.startswith(long + "="):
            return word[len(long) + 1 :]
        if word.startswith(short) and not word.startswith("--"):
            return word[len(short) :]
    return ""


def _application_name(application: str) -> str:
    """The package of "shop.main:app", the most telling part of "src/shop/main.py"."""
    text = clean(application).replace("\\", "/")
    if "/" in text or text.partition(":")[0].endswith(".py"):
        parts = [_stem(part) for part in text.partition(":")[0].split("/") if part not in ("", ".", "..")]
        while len(parts) > 1 and parts[-1] in _GENERIC_MODULES:
            parts.pop()
        return parts[-1] if parts else ""
    parts = text.partition(":")[0].split(".")
    return parts[1] if parts[0] == "src" and len(parts) > 1 else parts[0]
