"""A raw client for version 3 of PostgreSQL's protocol: what drivers never send, an attacker may.

Nothing is escaped, ordered or completed for the caller. Authentication is `trust` only. Message codes and layouts are
those of https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Iterator

TEXT, BINARY = 0, 1


@dataclass
class Reply:
    """Everything the server said up to the point asked for."""

    tags: list[str] = field(default_factory=list)
    rows: list[list[bytes | None]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    notices: list[dict[str, str]] = field(default_factory=list)
    copied: list[bytes] = field(default_factory=list)
    value: bytes | None = None  # of a fast-path call
    types: str = ""  # the message codes in the order of arrival
    status: str = ""  # I, T or E of ReadyForQuery
    closed: bool = False  # the server hung up

    @property
    def sqlstate(self) -> str:
        """The first error's SQLSTATE, '' without one."""
        return self.errors[0]["C"] if self.errors else ""

    def text(self) -> list[tuple[str | None, ...]]:
        """The rows as text."""
        return [tuple(None if v is None else v.decode() for v in row) for row in self.rows]


class Wire:
    """One connection. Keyword arguments other than those named go into the startup packet."""

    def __init__(self, host: str, port: int, user: str, database: str, timeout: float = 30, protocol: tuple[int, int] = (3, 0), **startup: str):
        self.parameters: dict[str, str] = {}
        self.key: tuple[int, bytes] = (0, b"")  # the process and its secret, which has more than four bytes from 3.2 on
        self.buffer = b""
        self.held: bytes | None = None
        self.address = os.path.join(host, f".s.PGSQL.{port}")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(self.address)
        pairs = {"user": user, "database": database, **startup}
        body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in pairs.items()) + b"\0"
        self.socket.sendall(struct.pack("!ihh", len(body) + 8, *protocol) + body)
        self.startup = self.until("Z")

    # --- messages to the server ---

    def send(self, code: str, body: bytes = b"") -> None:
        message = code.encode() + struct.pack("!i", len(body) + 4) + body
        if self.held is None:
            self.socket.sendall(message)
        else:
            self.held += message

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is sent meanwhile leaves as one: nothing holds the client up in between."""
        self.held = b""
        try:
            yield
        finally:
            held, self.held = self.held, None
            self.socket.sendall(held)

    def query(self, sql: str | bytes) -> Reply:
        """A simple query; several statements in it answer together. Ends early where the server waits for COPY data."""
        self.send("Q", _text(sql) + b"\0")
        return self.until("ZGW")

    def parse(self, sql: str | bytes, name: str = "", types: tuple[int, ...] = ()) -> None:
        self.send("P", _text(name) + b"\0" + _text(sql) + b"\0" + struct.pack(f"!h{len(types)}i", len(types), *types))

    def bind(self, portal: str = "", statement: str = "", values=(), format: int = TEXT, result: int = TEXT) -> None:
        body = _text(portal) + b"\0" + _text(statement) + b"\0" + struct.pack("!hh", 1, format)
        self.send("B", body + struct.pack("!h", len(values)) + _values(values) + struct.pack("!hh", 1, result))

    def describe(self, kind: str = "P", name: str = "") -> None:
        self.send("D", kind.encode() + _text(name) + b"\0")

    def execute(self, portal: str = "", max_rows: int = 0) -> None:
        self.send("E", _text(portal) + b"\0" + struct.pack("!i", max_rows))

    def close_object(self, kind: str = "P", name: str = "") -> None:
        self.send("C", kind.encode() + _text(name) + b"\0")

    def flush(self) -> None:
        self.send("H")

    def sync(self) -> Reply:
        self.send("S")
        return self.until("Z")

    def extended(self, sql: str | bytes, values=(), max_rows: int = 0, result: int = TEXT) -> Reply:
        """Parse, Bind, Describe, Execute, Sync with the unnamed statement and portal."""
        self.parse(sql)
        self.bind(values=values, result=result)
        self.describe()
        self.execute(max_rows=max_rows)
        return self.sync()

    def call(self, oid: int, values=(), format: int = TEXT, result: int = TEXT) -> Reply:
        """A fast-path function call: no parser, planner or executor on the way."""
        body = struct.pack("!ihhh", oid, 1, format, len(values)) + _values(values) + struct.pack("!h", result)
        self.send("F", body)
        return self.until("Z")

    def copy_data(self, data: bytes) -> None:
        self.send("d", data)

    def copy_done(self) -> Reply:
        self.send("c")
        return self.until("Z")

    def copy_fail(self, why: str = "") -> Reply:
        self.send("f", _text(why) + b"\0")
        return self.until("Z")

    def cancel(self) -> None:
        """A cancel request for whatever this connection runs, on a connection of its own.

        The server hangs up when it has sent its signals, which are two (postmaster.c, signal_child): who goes on before
        that may find the second one in the next statement (fe-connect.c, PQcancel)."""
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(self.socket.gettimeout())
            other.connect(self.address)
            pid, secret = self.key
            other.sendall(struct.pack("!iii", len(secret) + 12, 80877102, pid) + secret)
            while other.recv(64):
                pass

    def close(self) -> None:
        """Terminate politely."""
        try:
            self.send("X")
        except OSError:
            pass
        self.socket.close()

    def drop(self) -> None:
        """Hang up without a word."""
        self.socket.close()

    # --- messages from the server ---

    def until(self, codes: str) -> Reply:
        """Reads up to a message whose code is in `codes` (ReadyForQuery ends everything), or the end of the stream."""
        reply = Reply()
        while True:
            message = self._message()
            if message is None:
                reply.closed = True
                return reply
            code, body = message
            reply.types += code
            self._take(reply, code, body)
            if code in codes:
                return reply

    def _message(self) -> tuple[str, bytes] | None:
        head = self._read(5)
        if head is None:
            return None
        body = self._read(struct.unpack("!i", head[1:])[0] - 4)
        return None if body is None else (head[:1].decode(), body)

    def _read(self, count: int) -> bytes | None:
        while len(self.buffer) < count:
            try:
                piece = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                return None
            if not piece:
                return None
            self.buffer += piece
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def _take(self, reply: Reply, code: str, body: bytes) -> None:
        if code == "R" and struct.unpack("!i", body[:4])[0] != 0:
            raise AssertionError("the raw client knows no authentication but trust")
        if code == "S":
            name, value = body[:-1].split(b"\0")
            self.parameters[name.decode()] = value.decode()
        elif code == "K":
            self.key = (struct.unpack("!i", body[:4])[0], body[4:])
        elif code == "C":
            reply.tags.append(body.rstrip(b"\0").decode())
        elif code == "E":
            reply.errors.append(_fields(body))
        elif code == "N":
            reply.notices.append(_fields(body))
        elif code == "T":
            reply.columns = _columns(body)
        elif code == "D":
            reply.rows.append(_row(body))
        elif code == "d":
            reply.copied.append(body)
        elif code == "V":
            length = struct.unpack("!i", body[:4])[0]
            reply.value = None if length < 0 else body[4 : 4 + length]
        elif code == "Z":
            reply.status = body.decode()


def _text(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _values(values) -> bytes:
    parts = []
    for value in values:
        data = None if value is None else _text(value) if isinstance(value, (str, bytes)) else str(value).encode()
        parts.append(struct.pack("!i", -1) if data is None else struct.pack("!i", len(data)) + data)
    return b"".join(parts)


def _fields(body: bytes) -> dict[str, str]:
    return {part[:1].decode(): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}


def _columns(body: bytes) -> list[str]:
    names, at = [], 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode(errors="replace"))
        at = end + 19
    return names


def _row(body: bytes) -> list[bytes | None]:
    values, at = [], 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        (length,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        values.append(None if length < 0 else body[at : at + length])
        at += max(length, 0)
    return values
