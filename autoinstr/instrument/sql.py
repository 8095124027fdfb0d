"""What all SQL drivers share: the name of a statement's span, its attributes, and its text without what is secret.

Owns: the conventions for databases (OpenTelemetry's, stable), the look at a statement, the memory of names.
Must not know: any driver. An instrument hands in the text as the program gave it, and where the connection goes.
Source: OpenTelemetry semantic conventions for database client spans: `db.query.summary` as the name; `db.query.text` as it is where
the program has handed its values in apart from it, else with its literals replaced.

On the program's own thread a statement costs a look into a dictionary: it is read once, the first time that it is seen. Its text is
made fit for recording when the codec asks for the attributes, on the reporter's thread.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from autoinstr.model import AttributeValue

#: Of a statement, what is looked at for its name, and what is recorded of its text.
MAX_READ = 4096
MAX_SUMMARY = 255
#: Statements whose names are remembered; a program that writes values into its statements has more, and begins anew.
MAX_REMEMBERED = 1000
#: Words behind which a table is named, wherever they stand.
BEFORE_TABLES = frozenset({"JOIN", "INTO", "TABLE", "VIEW", "INDEX", "USING"})
#: First words behind which what they work on is named at once.
BEFORE_TARGETS = frozenset({"UPDATE", "CALL", "EXEC", "EXECUTE", "TRUNCATE", "REFRESH", "COPY", "REPLACE", "MERGE"})
#: Words that may stand between one of these and the name.
FILLERS = frozenset(
    {
        *("ONLY", "LATERAL", "TABLE", "VIEW", "MATERIALIZED", "IF", "NOT", "EXISTS", "INTO", "OR"),
        *("IGNORE", "CONCURRENTLY", "LOW_PRIORITY", "DELAYED", "ROLLBACK", "ABORT", "FAIL"),
    }
)
#: Words that end a list of tables.
BEHIND_TABLES = frozenset(
    {
        *("WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "OFFSET", "FETCH", "FOR", "SET", "VALUES", "RETURNING"),
        *("UNION", "EXCEPT", "INTERSECT", "WINDOW"),
    }
)
#: What a statement that begins with WITH or EXPLAIN may be about.
OPERATIONS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES"})
WORD = r"(?:[^\W\d][\w$#@]*|\"[^\"\\]*\"|`[^`]*`|\[[^\]]*\])"
#: Databases disagree on what a backslash before a quote means (MySQL's escape, a letter like others in standard SQL), and on comments
#: inside comments. Read wrongly, text and names would change places, and secrets be shown: such a statement is read up to there.
STRING = r"'(?:[^'\\]|''|\\[^'])*(?:'|\Z|\\'.*)|(?<![\w$])\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)"
QUOTED = r'"(?:[^"\\]|""|\\[^"])*(?:"|\Z|\\".*)'
COMMENT = r"--[^\n]*|(?m:^[ \t]*\#[^\n]*)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*(?:\*/|\Z|/\*.*)"
NUMBER = r"(?<![\w$.])(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?!\w)"
#: Where "…" may be a value: by its grammar, or, in SQLite, where it is no name.
QUOTES_ARE_TEXT = frozenset({"mysql", "mariadb", "sqlite"})

_names: dict[str, str] = {}
_patterns: dict[str, Any] = {}


def name_of(statement: Any) -> str:
    """``SELECT users orders``: operation and tables, low in cardinality; "" where there is nothing to be read.

    ``statement`` may be any object; text and bytes are read. Cheap for text that was seen before.
    """
    text: str = statement if statement.__class__ is str else text_of(statement)
    name = _names.get(text)
    if name is None:
        name = summarize(text)
        if len(text) <= MAX_READ:
            if len(_names) >= MAX_REMEMBERED:
                _names.clear()
            _names[text] = name
    return name


def text_of(statement: Any) -> str:
    """A statement as text; "" for what is none."""
    if isinstance(statement, str):
        return str(statement)
    if isinstance(statement, (bytes, bytearray)):
        return bytes(statement).decode("utf-8", "replace")
    return ""


def summarize(text: str) -> str:
    """The operation and the tables of a statement, in the order in which they stand there, each once."""
    operation, previous, is_expected = "", "", False
    tables: list[str] = []
    defined: set[str] = set()
    #: For each open parenthesis: whether a query began in it, and whether its list of tables is being read.
    is_query, is_listing = [False], [False]
    for piece in _tokens(text[:MAX_READ]):
        word = piece.upper()
        if piece == "(":
            if is_listing[-1] and tables and previous == tables[-1].upper():
                tables.pop()  # A function.
            is_expected = False
            is_query.append(False)
            is_listing.append(False)
        elif piece == ")":
            if len(is_query) > 1:
                is_query.pop()
                is_listing.pop()
        elif piece == ",":
            is_expected = is_listing[-1]
        elif piece == ";":
            break
        elif not operation or (operation in ("WITH", "EXPLAIN") and len(is_query) == 1 and word in OPERATIONS):
            operation = word
            is_query[-1] = word in ("SELECT", "DELETE")
            is_expected = word in BEFORE_TARGETS
        elif operation == "WITH" and word == "AS":
            defined.add(previous)
        elif word == "FROM":
            is_expected = is_listing[-1] = is_query[-1] and previous != "DISTINCT"
        elif word == "VALUES" and operation in ("INSERT", "REPLACE") and len(is_query) == 1:
            break  # Behind it stand values, of which there may be thousands.
        elif word in BEFORE_TABLES:
            is_expected = True
        elif word == "SELECT":
            is_query[-1] = True
            is_expected = is_listing[-1] = False
        elif word in BEHIND_TABLES:
            is_expected = is_listing[-1] = False
        elif is_expected and word not in FILLERS:
            is_expected = False
            name = _without_quotes(piece)
            if name not in tables and word not in defined:
                tables.append(name)
        previous = word
    return " ".join([operation, *tables])[:MAX_SUMMARY]


def _tokens(text: str) -> Iterator[str]:
    """Words (with their qualifiers, as one), parentheses, commas and semicolons; comments and values are passed over."""
    found = _pattern("tokens", rf"{COMMENT}|{STRING}|(?P<token>{WORD}(?:\s*\.\s*{WORD})*|[(),;])|{QUOTED}")
    for match in found.finditer(text):
        token = match.group("token")
        if token:
            yield token


def _without_quotes(name: str) -> str:
    return "".join(letter for letter in name if letter not in '"`[]' and not letter.isspace())


def without_literals(text: str, *, quotes_are_text: bool = False) -> str:
    """A statement with its values replaced by ``?`` and without comments; lists of values become one ``?``.

    ``quotes_are_text``: ``"…"`` may be a value, and ``#`` begins a comment, as in MySQL.
    """
    if quotes_are_text:
        found = _pattern("text", rf"(?P<comment>{COMMENT}|\#[^\n]*)|(?P<value>{STRING}|{QUOTED}|{NUMBER})|`[^`]*`")
    else:
        found = _pattern("names", rf"(?P<comment>{COMMENT})|(?P<value>{STRING}|{NUMBER})|{QUOTED}")

    def replaced(match: Any) -> str:
        if match.group("comment") is not None:
            return " "
        return "?" if match.group("value") is not None else str(match.group())

    without = found.sub(replaced, text)
    return str(_pattern("lists", r"\(\s*\?(?:\s*,\s*\?)+\s*\)").sub("(?)", without)).strip()


def _pattern(name: str, text: str) -> Any:
    """Compiled when it is first needed: a program without statements does without ``re``'s compiler."""
    found = _patterns.get(name)
    if found is None:
        import re

        found = _patterns[name] = re.compile(text, re.DOTALL)
    return found


def describe_statement(
    system: str, namespace: str, host: str, port: int, statement: str, is_parameterized: bool
) -> dict[str, AttributeValue]:
    """The attributes of a statement's span; what is unknown ("", 0) is left out.

    Source: OpenTelemetry semantic conventions for database spans, stable since version 1.33.
    """
    found: dict[str, AttributeValue] = {"db.system.name": system}
    if namespace:
        found["db.namespace"] = namespace
    if summary := name_of(statement):
        found["db.query.summary"] = summary
        operation, _, tables = summary.partition(" ")
        found["db.operation.name"] = operation
        if tables and " " not in tables:
            found["db.collection.name"] = tables
    if statement:
        text = statement[:MAX_READ]
        if not is_parameterized:
            text = without_literals(text, quotes_are_text=system in QUOTES_ARE_TEXT)
        found["db.query.text"] = text
    if host:
        found["server.address"] = host
    if port:
        found["server.port"] = port
    return found


def describe_batch(size: int) -> dict[str, AttributeValue]:
    """For how many sets of values a statement was executed; a batch of fewer than two is none."""
    return {"db.operation.batch.size": size} if size > 1 else {}
