"""The JSON Schema (2020-12) of a campaign's files, made from the vocabulary itself.

Owns: how types become schemas. Must not know: any value.
Invariant: what ``store`` writes is valid by it; keys that a newer version adds are allowed.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from autoinstr.bench.parts import SCHEMA_VERSION, Manifest, Run

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema() -> dict[str, Any]:
    """``$defs/Manifest`` describes manifest.json, ``$defs/Run`` a line of runs.jsonl."""
    definitions: dict[str, Any] = {}
    for kind in (Manifest, Run):
        _reference(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"autoinstr bench, format {SCHEMA_VERSION}",
        "$defs": definitions,
        "oneOf": [{"$ref": "#/$defs/Manifest"}, {"$ref": "#/$defs/Run"}],
    }


def _reference(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        definitions[name] = {
            "type": "object",
            "description": " ".join((kind.__doc__ or "").split()),
            "properties": {one.name: _type(hints[one.name], definitions) for one in fields},
            "required": [one.name for one in fields if not _has_default(one)],
        }
    return {"$ref": f"#/$defs/{name}"}


def _has_default(one: dataclasses.Field[Any]) -> bool:
    return one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING


def _type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _reference(kind, definitions)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(one, definitions) for one in arguments]}
    if kind is types.NoneType:
        return {"type": "null"}
    if origin is tuple:
        if arguments[1:] == (...,):
            return {"type": "array", "items": _type(arguments[0], definitions)}
        return {
            "type": "array",
            "prefixItems": [_type(one, definitions) for one in arguments],
            "minItems": len(arguments),
            "maxItems": len(arguments),
        }
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _type(arguments[1], definitions)}
    return {"type": _PLAIN[kind]} if kind in _PLAIN else {}


def main(words: list[str]) -> int:
    """``autoinstr bench schema``: print it."""
    if words:
        raise SystemExit("autoinstr bench schema takes no arguments")
    print(json.dumps(schema(), indent=1))
    return 0
