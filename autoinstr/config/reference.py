"""The reference page of all variables, made from the table: ``docs/generate.py`` writes it.

Owns: how a row of the table is written for people. Loaded by no traced process.
"""

from __future__ import annotations

from autoinstr.config.forms import UNSUPPORTED
from autoinstr.config.table import TABLE
from autoinstr.config.value import DEFAULTS, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoinstr.config.forms import Form
    from autoinstr.config.table import Row

_INTRODUCTION = """\
# Configuration

<!-- Written by docs/generate.py from autoinstr/config/table.py; do not edit. -->

Everything is optional, and everything is an environment variable. Without any, autoinstr behaves as Jaeger's clients
do: the service is called after the program, spans go by UDP to an agent at localhost:6831, and the remote sampler asks
http://localhost:5778/sampling.

For one setting AUTOINSTR_* wins over OTEL_* (a variable for traces over the general one), that over JAEGER_*, that over
the default; in the tables, of the variables with the same setting the upper one wins. An empty variable is an unset
one. A wrong value never stops the program: a line says which variable is wrong, what is allowed and what is used, as in
`JAEGER_AGENT_PORT: '68x31' is not a port (0 to 65535); using 6831`.
"""

_DOCUMENTED_DEFAULTS = {"service_name": "the program's name (app.py: `app`, uvicorn shop.main:app: `shop`)"}


def to_markdown() -> str:
    """The reference page of all variables."""
    return _INTRODUCTION + "".join(_section(topic, rows) for topic, rows in TABLE.items())


def _section(topic: str, rows: Sequence[Row]) -> str:
    if not any(field for _, field, _, _ in rows):
        lines = ["| Variable | Why |", "|---|---|"]
        lines += [
            f"| `{variable}` | {text}{'. A warning says so' * (form is UNSUPPORTED)} |"
            for variable, _, form, text in rows
        ]
    else:
        lines = ["| Variable | Setting | Meaning | Allowed | Default |", "|---|---|---|---|---|"]
        lines += [_documented(*row) for row in rows]
    return "\n".join(("", f"## {topic}", "", *lines, ""))


def _documented(variable: str, field: str, form: Form, text: str) -> str:
    value = form.shown(DEFAULTS[field]) if form.shown else DEFAULTS[field]
    default = _DOCUMENTED_DEFAULTS.get(field) or show(field, value)
    return f"| `{variable}` | {field} | {text} | {form.allowed} | {default} |"
