"""The command line of ``autoinstr serve``.

Owns: options, their defaults and forms (sizes, durations, secrets), where data is kept by default.
Must not know: what is done with them.
Invariants: a wrong value is explained with its option's name; a secret may come from a file or the environment, so that it
need not stand in the list of processes.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from autoinstr.backend.guard import Credentials

#: Name of a listener, which is also the beginning of its option: default port, kind of socket, what it is for.
LISTENERS = {
    "query": (16686, socket.SOCK_STREAM, "the web interface, and traces as JSON (Jaeger's query API) and as text"),
    "sampling": (5778, socket.SOCK_STREAM, "sampling strategies over HTTP"),
    "collector": (14268, socket.SOCK_STREAM, "Jaeger Thrift over HTTP"),
    "otlp": (4318, socket.SOCK_STREAM, "OTLP over HTTP, protobuf and JSON"),
    "otlp-grpc": (4317, socket.SOCK_STREAM, "OTLP over gRPC, when grpcio is installed"),
    "zipkin": (9411, socket.SOCK_STREAM, "Zipkin v2 JSON over HTTP"),
    "agent": (6831, socket.SOCK_DGRAM, "Jaeger Thrift over UDP, compact and binary"),
    "agent-binary": (6832, socket.SOCK_DGRAM, "the same, where Jaeger takes binary"),
}
LARGEST_PORT = 65_535
#: The value of a port that is not listened on.
OFF = -1

STORAGES = ("sqlite", "memory", "postgres")
#: About 2 KB of memory each.
DEFAULT_MAX_SPANS = 100_000
DEFAULT_MAX_BYTES = 512 * 2**20
DEFAULT_MAX_AGE_S = 24 * 3600.0

USER_VARIABLE, TOKEN_VARIABLE = "AUTOINSTR_SERVE_USER", "AUTOINSTR_SERVE_TOKEN"
POSTGRES_VARIABLE = "AUTOINSTR_SERVE_POSTGRES"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; ends the process with status 2 and an explanation when they are wrong."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.storage == "postgres" and not options.postgres:
        parser.error(f"--storage postgres needs --postgres URL (or {POSTGRES_VARIABLE})")
    if options.postgres and not options.storage:
        options.storage = "postgres"
    if options.forward and options.storage:
        parser.error("--forward sends spans on instead of storing them: leave --storage away")
    options.storage = options.storage or "sqlite"
    if options.max_bytes is None and options.storage != "postgres":
        options.max_bytes = DEFAULT_MAX_BYTES
    # As a number, "no limit" is a very long time.
    options.max_age = options.max_age or float("inf")
    if options.forward and options.adaptive:
        parser.error("--adaptive is for the collector that --forward names")
    return options


def credentials(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Credentials:
    """Users and tokens from the command line, from files and from the environment. ValueError, OSError."""
    users = [*options.user, *filter(None, [environ.get(USER_VARIABLE)])]
    tokens = [*options.token, *filter(None, [environ.get(TOKEN_VARIABLE)])]
    read_users = tuple(secret(text, "--user") for text in users)
    for user in read_users:
        if ":" not in user.strip(":"):
            raise ValueError("--user must be NAME:PASSWORD")
    return Credentials(read_users, tuple(secret(text, "--token") for text in tokens))


def secret(text: str, option: str) -> str:
    """``text``, or the first line of the file that ``@FILE`` names. ValueError when there is nothing in it."""
    if text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8") as file:
                text = file.readline().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {text[1:]} ({option}): {error}") from error
    if not text:
        raise ValueError(f"{option} is empty")
    return text


def data_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """Where a user's programs keep data on this system (XDG Base Directory, and what others have for it)."""
    home = os.path.expanduser("~")
    if platform == "win32":
        base = environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        named = environ.get("XDG_DATA_HOME", "")
        # A relative path is to be ignored (XDG).
        base = named if os.path.isabs(named) else os.path.join(home, ".local", "share")
    return os.path.join(base, "autoinstr")


def sampling_url(options: argparse.Namespace) -> str:
    """Where a forwarder asks for strategies: the collector's host, on Jaeger's port, unless said otherwise."""
    if options.forward_sampling:
        return str(options.forward_sampling)
    host = urlsplit(options.forward).hostname or "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{LISTENERS['sampling'][0]}/sampling"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoinstr serve", description="Receive traces, keep them, and show them, all in one process."
    )
    _add_listeners(parser.add_argument_group("where it listens"))
    _add_storage(parser.add_argument_group("what it keeps"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_guards(parser.add_argument_group("who may ask"))
    parser.add_argument("--ports-file", metavar="FILE", help="write the ports here, as JSON, once all are listening")
    parser.add_argument(
        "--log", choices=("text", "json"), default="text", help="form of what it says of itself (%(default)s)"
    )
    # For `python -m autoinstr --ui`: nobody reads what is printed, and some sockets are open already.
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inherit", type=inherited, action="append", default=[], help=argparse.SUPPRESS)
    return parser


def _add_listeners(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    for name, (number, _, purpose) in LISTENERS.items():
        help_text = f"{purpose} (%(default)s; 0: any free port; off)"
        group.add_argument(f"--{name}-port", type=port, default=number, metavar="PORT", help=help_text)


def _add_storage(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--storage", choices=STORAGES, help="where spans are kept (sqlite)")
    group.add_argument("--data", metavar="DIR", default=data_folder(), help="folder for files (%(default)s)")
    group.add_argument(
        "--postgres",
        metavar="URL",
        default=os.environ.get(POSTGRES_VARIABLE, ""),
        help=f"a PostgreSQL database (or set {POSTGRES_VARIABLE})",
    )
    group.add_argument(
        "--max-bytes",
        type=size,
        default=None,
        metavar="SIZE",
        help="what is kept on disk at most, for example 2G; the oldest goes first (512M; PostgreSQL: no limit)",
    )
    group.add_argument(
        "--max-age",
        type=duration,
        default=DEFAULT_MAX_AGE_S,
        metavar="TIME",
        help="how long spans are kept at most, for example 90m, 7d; 0: no limit (24h)",
    )
    group.add_argument(
        "--max-spans", type=positive, default=DEFAULT_MAX_SPANS, metavar="N", help="spans in memory (%(default)s)"
    )
    group.add_argument(
        "--forward",
        metavar="URL",
        default="",
        help="keep nothing, send on to a collector: http://HOST:4318 (OTLP) or jaeger+http://HOST:14268",
    )
    group.add_argument(
        "--forward-header", metavar="NAME=VALUE", action="append", default=[], type=header, help="with each request"
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--strategies-file", metavar="FILE", help="sampling strategies in Jaeger's format")
    group.add_argument(
        "--adaptive",
        metavar="TARGET",
        type=positive_number,
        default=None,
        help="steer each operation to so many traces per second",
    )
    group.add_argument(
        "--forward-sampling",
        metavar="URL",
        default="",
        help="with --forward: where strategies are asked for (port 5778 of the collector's host)",
    )


def _add_guards(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--user",
        metavar="NAME:PASSWORD",
        action="append",
        default=[],
        help=f"demand a password; @FILE reads it from a file (or set {USER_VARIABLE})",
    )
    group.add_argument(
        "--token",
        action="append",
        default=[],
        help=f"demand a bearer token; @FILE reads it from a file (or set {TOKEN_VARIABLE})",
    )
    group.add_argument(
        "--open-receivers", action="store_true", help="demand them for queries only, and take spans from anybody"
    )
    group.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="a further name that requests may ask for"
    )
    group.add_argument(
        "--cors-origin", metavar="ORIGIN", action="append", default=[], help="take spans from pages of this origin"
    )


def port(text: str) -> int:
    """A port, or ``OFF``."""
    if text == "off":
        return OFF
    number = int(text)
    if not 0 <= number <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{number} is not a port (0 to {LARGEST_PORT}, or off)")
    return number


def inherited(text: str) -> tuple[str, int]:
    """A listener's name and the descriptor of its socket, from ``name=descriptor``."""
    name, _, descriptor = text.partition("=")
    return name, int(descriptor)


def positive(text: str) -> int:
    """A whole number from 1 upwards."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def positive_number(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def size(text: str) -> int:
    """Bytes from ``512M``, ``2G``, ``100000``; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    number = int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " ")) if match else 0
    if number < 2**20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of a megabyte or more, such as 512M or 2G")
    return number


def duration(text: str) -> float:
    """Seconds from ``90m``, ``24h``, ``7d``; 0 for no limit."""
    if text.strip() == "0":
        return 0.0
    match = _DURATION.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90m, 24h or 7d (0: no limit)")
    return float(match[1]) * _SECONDS[match[2]]


def header(text: str) -> tuple[str, str]:
    """A header from ``Name=value``."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or "\n" in text or "\r" in text:
        raise argparse.ArgumentTypeError(f"{name!r} is not a header: NAME=VALUE")
    return name.strip(), value.strip()
