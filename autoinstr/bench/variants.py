"""Variants by the name a user writes: what each sets, and the command line and environment that it makes of a program.

Owns: the grammar of names, the settings of each agent, how a program's words are resolved, what a measured process inherits.
Must not know: which addresses a run has (they are filled in), whether an environment is installed, processes.
Invariants: every variant's process has equally many variables, because ``requests`` reads all of them at each call and takes
some 2 µs for each; no tracing variable and no agent's folder of the caller reaches the program; agents export traces
only, to this machine; what is not set stays at the agent's own default, so that it is measured as people have it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from autoinstr.bench import rivals
from autoinstr.bench.parts import AGAIN, BASE, Refusal, Sampling, Variant

#: What the program is called in the traces, and what the sink is asked for strategies of.
SERVICE = "bench"
#: What ``bench run`` compares unless told otherwise: three points of the cost model, and bare twice.
DEFAULT = (BASE, AGAIN, "off", "const:0", "prob:0.1", "const:1")

FORMS = {
    "none": "without any agent",
    "none#2": "the same again: its difference from none is the error of the measurement",
    "off": "the agent is there and switched off",
    "const:0, const:1": "no trace is kept, or each",
    "prob:P": "the share P of the traces (0 to 1), by their ids",
    "rate:N": "N traces per second",
    "remote[:P]": "the share P (0.1), as the sampling endpoint says it",
    "budget:P": "as many traces as the share P of the program's CPU time (0.01 = 1 %) pays for",
    "const:1-null": "each trace is made, and thrown away instead of sent",
    "otel[:P], ddtrace[:P], elastic[:P]": "other agents, which keep the share P (1)",
    "burn:US[@SHARE]": "no agent, but US microseconds of CPU more in each request, or in a SHARE of them",
    "NAME=[VARIABLE=value ...] COMMAND {app}": "an agent of your own, which starts the program {app}",
}
WIRES_TEXT = "const, prob, rate, remote and budget take @udp (the default), @http, @otlp or @zipkin at the end"

#: Variables that each variant has, at least as many as the longest of the settings below, and as an own command may set.
SETTINGS = 12
#: Of tracing agents, of Python (they change its speed), and of ours to the measured process.
FOREIGN = ("AUTOINSTR_", "_AUTOINSTR_", "JAEGER_", "OTEL_", "DD_", "_DD_", "ELASTIC_APM_", "PYTHON", "BENCH_", "LOCUST_")
#: Folders with these endings on PYTHONPATH start an agent in every Python.
AGENT_FOLDERS = (
    "autoinstr/_boot",
    "autoinstr/bench/burn",
    "opentelemetry/instrumentation/auto_instrumentation",
    "ddtrace/bootstrap",
    "elasticapm/instrumentation/wrapper",
)
HERE = os.path.dirname(os.path.abspath(__file__))
BURN_FOLDER = os.path.join(HERE, "burn")

_PLACEHOLDER = re.compile(r"\{(http|http_port|udp_port|metrics_port)\}")
_EXAMPLES = (*DEFAULT, "rate:10", "remote", "remote:0.1", "const:1-null", "otel", "ddtrace", "elastic", "burn:50")

_OWN_NAME = re.compile(r"([A-Za-z][\w.-]*)=(.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")


# ---- Names -----------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """A name in its parts: ``KIND[:VALUE][@SUFFIX]``; a part that is not there is None."""

    name: str
    kind: str
    value: str | None
    suffix: str | None


def parse(text: str) -> Variant:
    """The variant of that name. Raises Refusal, which names the forms that there are and what comes near."""
    name = text.strip()
    own = _OWN_NAME.fullmatch(name)
    if own:
        return _own(name, own[1], own[2])
    head, at, suffix = name.partition("@")
    kind, colon, value = head.partition(":")
    make = _KINDS.get(kind)
    if make is None:
        raise _unknown(name)
    return make(_Asked(name, kind, value if colon else None, suffix if at else None))


def _unknown(name: str) -> Refusal:
    near = difflib.get_close_matches(name, _EXAMPLES, n=3, cutoff=0.6)
    if not near:
        near = difflib.get_close_matches(re.split("[:@#]", name)[0], list(_KINDS), n=1, cutoff=0.5)
    return _refusal(name, "there is no such variant" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _refusal(name: str, why: str) -> Refusal:
    width = max(map(len, FORMS))
    forms = "\n".join(f"  {form:{width}}  {meaning}" for form, meaning in FORMS.items())
    return Refusal(f"variant {name!r}: {why}\nVariants are:\n{forms}\n{WIRES_TEXT}.")


def _number(asked: _Asked, text: str, what: str, low: float, high: float = math.inf) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high or number == math.inf:
        limits = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise _refusal(asked.name, f"{text!r} is not {what} {limits}")
    return number


def _refuse_parts(asked: _Asked, *, value: bool = False, suffix: bool = False) -> None:
    if value and asked.value is not None:
        raise _refusal(asked.name, f"{asked.kind} takes nothing after ':'")
    if suffix and asked.suffix is not None:
        raise _refusal(asked.name, f"{asked.kind} takes nothing after '@'")


def _bare(asked: _Asked) -> Variant:
    _refuse_parts(asked, value=True, suffix=True)
    return Variant(asked.name, "none", in_cost_model=asked.kind == BASE)


# ---- This agent ------------------------------------------------------------------------------------

LAUNCHER = ("python", "-m", "autoinstr")

_WIRES = {
    "udp": {"AUTOINSTR_EXPORTER": "jaeger-udp", "JAEGER_AGENT_HOST": "127.0.0.1", "JAEGER_AGENT_PORT": "{udp_port}"},
    "http": {"AUTOINSTR_EXPORTER": "jaeger-http", "JAEGER_ENDPOINT": "{http}/api/traces"},
    "otlp": {"AUTOINSTR_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "{http}"},
    "zipkin": {"AUTOINSTR_EXPORTER": "zipkin", "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "{http}/api/v2/spans"},
}
_NOWHERE = {"AUTOINSTR_EXPORTER": "none"}


def _off(asked: _Asked) -> Variant:
    _refuse_parts(asked, value=True, suffix=True)
    variables = {"OTEL_SDK_DISABLED": "true", "JAEGER_SERVICE_NAME": SERVICE}
    return Variant(asked.name, "off", LAUNCHER, variables)


def _const(asked: _Asked) -> Variant:
    if asked.value == "1-null":
        _refuse_parts(asked, suffix=True)
        return _ours(asked, "const", Sampling("const", 1.0), is_null=True)
    if asked.value not in {"0", "1"}:
        raise _refusal(asked.name, "const is const:0, const:1 or const:1-null; for a share there is prob:P")
    return _ours(asked, "const", Sampling("const", float(asked.value)))


def _prob(asked: _Asked) -> Variant:
    return _ours(asked, "probabilistic", Sampling("prob", _number(asked, asked.value or "", "a share", 0, 1)))


def _rate(asked: _Asked) -> Variant:
    per_second = _number(asked, asked.value or "", "a number of traces per second", 0.001)
    return _ours(asked, "ratelimiting", Sampling("rate", per_second))


def _remote(asked: _Asked) -> Variant:
    share = 0.1 if asked.value is None else _number(asked, asked.value, "a share", 0, 1)
    return _ours(asked, "remote", Sampling("remote", share))


def _budget(asked: _Asked) -> Variant:
    share = _number(asked, asked.value or "", "a share of the CPU time", 0.0001, 1)
    return dataclasses.replace(_ours(asked, "budget", Sampling("budget", share)), in_cost_model=False)


def _ours(asked: _Asked, jaeger_type: str, sampling: Sampling, *, is_null: bool = False) -> Variant:
    wire = "udp" if asked.suffix is None else asked.suffix
    if wire not in _WIRES:
        raise _refusal(asked.name, f"{wire!r} is not a wire: {WIRES_TEXT}")
    variables = {"JAEGER_SERVICE_NAME": SERVICE, "JAEGER_SAMPLER_TYPE": jaeger_type}
    if jaeger_type == "remote":
        # Nothing is kept until the strategy is there, so that the share kept shows whether it came; the first request waits.
        variables |= {"JAEGER_SAMPLER_PARAM": "0", "AUTOINSTR_SAMPLER_WAIT": "5s"}
        variables["JAEGER_SAMPLING_ENDPOINT"] = "{http}/sampling"
    else:
        variables["JAEGER_SAMPLER_PARAM"] = _plain(sampling.param)
    variables |= _NOWHERE if is_null else _WIRES[wire]
    # A page that nobody asks for costs nothing: the port is opened with the first span, and its thread sleeps.
    variables["AUTOINSTR_METRICS_PORT"] = "{metrics_port}"
    return Variant(
        asked.name,
        "autoinstr",
        LAUNCHER,
        variables,
        sampling=sampling,
        exports=not is_null,
        has_counters=True,
        in_cost_model=wire == "udp" and not is_null,
    )


def _plain(number: float) -> str:
    return f"{number:.12g}"


# ---- Other agents ----------------------------------------------------------------------------------


def _otel_settings(share: float) -> dict[str, str]:
    # As ours: what a caller has decided stands.
    sampler = {0.0: "always_off", 1.0: "always_on"}.get(share, "traceidratio")
    return {
        "OTEL_SERVICE_NAME": SERVICE,
        "OTEL_TRACES_SAMPLER": f"parentbased_{sampler}",
        "OTEL_TRACES_SAMPLER_ARG": _plain(share),
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "{http}",
    }


def _ddtrace_settings(share: float) -> dict[str, str]:
    return {
        "DD_SERVICE": SERVICE,
        "DD_TRACE_AGENT_URL": "{http}",
        "DD_TRACE_SAMPLING_RULES": json.dumps([{"sample_rate": share}]),
        # Rules bring a limit of 100 traces a second, which would make 100 % something else.
        "DD_TRACE_RATE_LIMIT": "-1",
        "DD_TRACE_STARTUP_LOGS": "false",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    }


def _elastic_settings(share: float) -> dict[str, str]:
    return {
        "ELASTIC_APM_SERVICE_NAME": SERVICE,
        "ELASTIC_APM_SERVER_URL": "{http}",
        "ELASTIC_APM_TRANSACTION_SAMPLE_RATE": _plain(share),
        # Not METRICS_INTERVAL=0: that is invalid, and the agent then sends nothing at all.
        "ELASTIC_APM_DISABLE_METRICS": "*",
        "ELASTIC_APM_CENTRAL_CONFIG": "false",
        "ELASTIC_APM_CLOUD_PROVIDER": "none",
    }


_RIVALS: Mapping[str, tuple[str, Callable[[float], dict[str, str]]]] = {
    "otel": ("opentelemetry-instrument", _otel_settings),
    "ddtrace": ("ddtrace-run", _ddtrace_settings),
    "elastic": ("elasticapm-run", _elastic_settings),
}


def _rival(asked: _Asked) -> Variant:
    if asked.suffix is not None and (asked.kind, asked.suffix) != ("otel", "otlp"):
        raise _refusal(asked.name, f"{asked.kind} has one wire here, and takes nothing after '@'")
    share = 1.0 if asked.value is None else _number(asked, asked.value, "a share", 0, 1)
    launcher, settings = _RIVALS[asked.kind]
    sampling: Sampling | None = Sampling("const" if share in {0.0, 1.0} else "prob", share)
    if asked.kind == "ddtrace" and share < 1:
        sampling = None  # It marks what is not kept, and sends it all the same: its own receiver decides.
    return Variant(
        asked.name, asked.kind, (launcher,), settings(share), environment=asked.kind, sampling=sampling, exports=True
    )


# ---- No agent, or the user's own -------------------------------------------------------------------


def _burn(asked: _Asked) -> Variant:
    microseconds = _number(asked, asked.value or "", "a number of microseconds", 1, 1e6)
    share = 1.0 if asked.suffix is None else _number(asked, asked.suffix, "a share", 0, 1)
    variables = {
        "AUTOINSTR_BENCH_BURN_US": _plain(microseconds),
        "AUTOINSTR_BENCH_BURN_SHARE": _plain(share),
        "AUTOINSTR_BENCH_BURN_SEED": "1",
    }
    return Variant(asked.name, "burn", (), variables)


def _own(name: str, label: str, text: str) -> Variant:
    """``label`` is what reports call it; the command is in its words."""
    words = _split(name, text)
    variables: dict[str, str] = {}
    while words and (assignment := _ASSIGNMENT.fullmatch(words[0])):
        variables[assignment[1]] = assignment[2]
        del words[0]
    if words[-1:] != ["{app}"]:
        raise _refusal(name, "the command has to end in {app}, which stands for the program")
    if len(variables) > SETTINGS:
        raise _refusal(name, f"more than {SETTINGS} variables; a script that sets them and starts the program may be the command")
    if label in _KINDS:
        raise _refusal(name, f"{label} is a variant already; choose another name")
    # Whether anything comes to the sink is for the user to know; nothing is expected of it.
    return Variant(label, "command", tuple(words[:-1]), variables, exports=True)


def _split(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Refusal(f"{name!r} cannot be split into words as a shell does it: {error}") from None


_KINDS: Mapping[str, Callable[[_Asked], Variant]] = {
    BASE: _bare,
    AGAIN: _bare,
    "off": _off,
    "const": _const,
    "prob": _prob,
    "rate": _rate,
    "remote": _remote,
    "budget": _budget,
    **dict.fromkeys(_RIVALS, _rival),
    "burn": _burn,
}


# ---- The process of a variant ----------------------------------------------------------------------


def command(variant: Variant, program: Sequence[str], addresses: Mapping[str, int | str] | None = None) -> list[str]:
    """The command line that runs ``program`` under the variant.

    Its first word is a program of the variant's environment (``python``, ``gunicorn``), of the PATH, or a path; where that
    is a path into a virtual environment, this agent is started by that environment's Python. Raises Refusal for a program
    that is nowhere.
    """
    if not program:
        raise Refusal("there is no program to start")
    folder = _folder(variant, program[0])
    first = _found(variant, program[0], folder)
    words = [_filled(word, addresses or {}) for word in variant.launcher]
    if not words:
        return [first, *program[1:]]
    is_python = _is_python(program[0])
    # The program's own interpreter: there may be several in a folder.
    words[0] = first if is_python and _is_python(words[0]) else _found(variant, words[0], folder)
    if is_python and words[-2:] == ["-m", "autoinstr"] and _follows_python(program[1:]):
        return [*words, *program[1:]]
    return [*words, first, *program[1:]]


def environment(
    variant: Variant, addresses: Mapping[str, int | str], extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All variables of the variant's process.

    ``addresses`` fills in ``http``, ``udp_port``, ``http_port`` and ``metrics_port``; without a ``metrics_port`` the agent opens
    none. ``extra`` are the program's own variables; its PYTHONPATH comes before the caller's. Raises Refusal for a missing address.
    """
    extra = dict(extra or {})
    theirs = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN) and key != "VIRTUAL_ENV"}
    base = {**theirs, **extra}
    settings = {
        key: _filled(value, addresses)
        for key, value in variant.variables.items()
        if "{metrics_port}" not in value or "metrics_port" in addresses
    }
    paths = [BURN_FOLDER] if variant.kind == "burn" else []
    paths += [text for text in (settings.get("PYTHONPATH"), extra.get("PYTHONPATH"), _inherited_python_path()) if text]
    folder = os.pathsep.join([_bin(variant.environment), settings.get("PATH") or base.get("PATH") or os.defpath])
    # An empty PYTHONPATH counts as none, but is there: agents' launchers set one, and that would be a variable more.
    fixed = {"PATH": folder, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
    added = [key for key in settings if key not in base and key not in fixed]
    padding = {f"BENCH_PADDING_{number}": "http://127.0.0.1:12345" for number in range(len(added), SETTINGS)}
    return {**base, **_without_proxies_for_this_machine(base), **settings, **padding, **fixed}


def _filled(text: str, addresses: Mapping[str, int | str]) -> str:
    def address(found: re.Match[str]) -> str:
        if found[1] not in addresses:
            raise Refusal(f"{text}: there is no {found[1]} here")
        return str(addresses[found[1]])

    return _PLACEHOLDER.sub(address, text)


def _inherited_python_path() -> str:
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(
        entry for entry in entries if entry and not entry.replace(os.sep, "/").rstrip("/").endswith(AGENT_FOLDERS)
    )


def _without_proxies_for_this_machine(variables: Mapping[str, str]) -> dict[str, str]:
    """Agents and services behind the program listen here; a proxy of the caller's would be asked for them."""
    if not any(key.lower() in {"http_proxy", "https_proxy", "all_proxy"} for key in variables):
        return {}
    exempt = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    return {"no_proxy": ",".join(filter(None, (exempt, "127.0.0.1,localhost")))}


def _bin(name: str) -> str:
    """The folder of an environment's programs; "" is the one that runs the harness."""
    return str(rivals.bin_folder(name)) if name else os.path.dirname(sys.executable)


def _folder(variant: Variant, first: str) -> str:
    """Where the launcher is looked for: beside the program, if that has an environment of its own."""
    beside = os.path.dirname(first)
    if variant.environment or not beside:
        return _bin(variant.environment)
    has_environment = os.path.isfile(os.path.join(os.path.dirname(beside), "pyvenv.cfg"))
    return beside if has_environment or _is_python(first) else _bin("")


def _found(variant: Variant, word: str, folder: str) -> str:
    if os.path.dirname(word):
        return word
    beside = os.path.join(folder, word)
    # Whether a rival is installed at all is asked before (``rivals.missing``).
    if os.access(beside, os.X_OK) or (variant.environment and not rivals.is_installed(variant.environment)):
        return beside
    found = shutil.which(word)
    if found is None:
        raise Refusal(f"{word}: there is no such program beside {folder}/python, nor on the PATH")
    return found


def _is_python(word: str) -> bool:
    return _PYTHON.fullmatch(os.path.basename(word)) is not None


def _follows_python(words: Sequence[str]) -> bool:
    """Whether ``python -m autoinstr`` can stand for ``python`` before these words: options of Python itself it does not take."""
    return bool(words) and (not words[0].startswith("-") or words[0][:2] in {"-m", "-c"} or words[0] == "-")


# ---- The program of a command line -----------------------------------------------------------------


def strip_agent(program: str | Sequence[str]) -> list[str]:
    """The words of the bare program in a command line (a text or its words) that may start it under an agent.

    Knows ``python -m autoinstr X``, ``autoinstr run X``, ``opentelemetry-instrument X``, ``ddtrace-run X``, ``elasticapm-run X``
    with their options. Raises Refusal where nothing is left, or the text is not a command line.
    """
    words = _split(program, program) if isinstance(program, str) else list(program)
    while words and (bare := _stripped_once(words)) != words:
        words = bare
    if not words:
        raise Refusal(f"{program!r} names no program")
    return words


def _stripped_once(words: list[str]) -> list[str]:
    folder, name = os.path.split(words[0])
    if _is_python(name):
        at = _position_of_our_module(words)
        return words if at is None else _bare_program(words[at:], words[0], [one for one in words[1:at] if one not in _OURS])
    if name == "autoinstr":
        return _bare_program(words[1:], os.path.join(folder, "python"), [])
    if name == "opentelemetry-instrument":
        return _after_options(words[1:], with_value=lambda option: True)
    if name == "ddtrace-run":
        return _after_options(words[1:], with_value=lambda option: False)
    if name == "elasticapm-run":
        return _after_options(words[1:], with_value=lambda option: option == "--config")
    return words


_OURS = ("-m", "autoinstr", "-mautoinstr")


def _position_of_our_module(words: Sequence[str]) -> int | None:
    """Where our own words begin in ``python [OPTIONS] -m autoinstr ...``."""
    position = 1
    while position < len(words) and words[position].startswith("-"):
        word = words[position]
        if word == "-mautoinstr" or (word == "-m" and words[position + 1 : position + 2] == ["autoinstr"]):
            return position + (1 if word == "-mautoinstr" else 2)
        if word[:2] in {"-m", "-c"}:
            return None
        position += 2 if word in {"-X", "-W"} else 1
    return None


def _bare_program(words: Sequence[str], python: str, flags: Sequence[str]) -> list[str]:
    """What our launcher becomes, from the words after it."""
    rest = list(words[1:] if words[:1] == ["run"] else words)
    while rest and rest[0].startswith("-") and rest[0][:2] not in {"-m", "-c"} and rest[0] != "-":
        option = rest.pop(0)
        if option == "--":
            break
        if option == "--service":
            del rest[:1]
    if not rest:
        return rest
    is_for_python = rest[0].startswith("-") or rest[0].endswith((".py", ".pyw", ".pyz", ".zip"))
    if is_for_python or os.path.isfile(os.path.join(rest[0], "__main__.py")):
        return [python, *flags, *rest]
    beside = os.path.join(os.path.dirname(python), rest[0])
    return [beside, *rest[1:]] if os.path.dirname(python) and os.access(beside, os.X_OK) else rest


def _after_options(words: Sequence[str], with_value: Callable[[str], bool]) -> list[str]:
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--":
            break
        if "=" not in option and with_value(option):
            del rest[:1]
    return rest
