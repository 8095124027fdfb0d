"""As much of a MongoDB server as a driver needs to send commands: handshakes, and answers by the name of the command.

Protocol: "MongoDB Wire Protocol": OP_MSG, and OP_QUERY for the first handshake.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import bson

from fakes import Server

if TYPE_CHECKING:
    import socket

HEADER = struct.Struct("<iiii")
OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
HELLO = {
    "ok": 1, "helloOk": True, "ismaster": True, "isWritablePrimary": True, "minWireVersion": 0, "maxWireVersion": 25,
    "maxBsonObjectSize": 1 << 24, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "logicalSessionTimeoutMinutes": 30, "readOnly": False,
}


class MongoServer(Server):
    """``commands`` is what came, but for handshakes; of a collection ``broken`` the server knows a duplicate, ``gone`` hangs it up."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        super().__init__(self._serve)

    def _serve(self, connection: socket.socket, number: int) -> None:
        while head := read(connection, HEADER.size):
            length, request_id, _, operation = HEADER.unpack(head)
            body = read(connection, length - HEADER.size)
            command = parse_message(body) if operation == OP_MSG else parse_query(body)
            answer = self._answer(command)
            if answer is None:
                return
            document = bson.encode(answer)
            if operation == OP_MSG:
                text, kind = struct.pack("<iB", 0, 0) + document, OP_MSG
            else:
                text, kind = struct.pack("<iqii", 8, 0, 0, 1) + document, OP_REPLY
            connection.sendall(HEADER.pack(HEADER.size + len(text), next(self._ids), request_id, kind) + text)

    def _answer(self, command: dict[str, Any]) -> dict[str, Any] | None:
        name, target = next(iter(command.items()))
        if name.lower() in ("hello", "ismaster"):
            return HELLO
        self.commands.append(command)
        if target == "broken":
            message = f"E11000 duplicate key error: {command}"
            return {"ok": 0, "code": 11000, "codeName": "DuplicateKey", "errmsg": message}
        if target == "gone":
            return None
        if name == "find":
            return {"ok": 1, "cursor": {"id": bson.Int64(7), "ns": f"{command['$db']}.{target}", "firstBatch": [{"n": 1}]}}
        if name == "getMore":
            return {"ok": 1, "cursor": {"id": bson.Int64(0), "ns": f"{command['$db']}.{command['collection']}", "nextBatch": [{"n": 2}]}}
        return {"ok": 1, "n": len(command.get("documents", ())) or 1}


def read(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer at the end."""
    found = b""
    while len(found) < size and (piece := connection.recv(size - len(found))):
        found += piece
    return found


def parse_message(body: bytes) -> dict[str, Any]:
    """OP_MSG: the document, and the sequences that belong into it."""
    at, command, sequences = 4, {}, {}
    while at < len(body):
        (size,) = struct.unpack_from("<i", body, at + 1)
        part = body[at + 1 : at + 1 + size]
        if body[at] == 0:
            command = bson.decode(part)
        else:
            name, _, documents = part[4:].partition(b"\0")
            sequences[name.decode()] = bson.decode_all(documents)
        at += 1 + size
    return {**command, **sequences}


def parse_query(body: bytes) -> dict[str, Any]:
    """OP_QUERY, of which only handshakes are left."""
    return bson.decode(body[body.index(b"\0", 4) + 9 :])
