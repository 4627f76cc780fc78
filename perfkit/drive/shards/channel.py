"""Frames between coordinator and shard: JSON with bytes behind it, over a socket or a pair of pipes.

Both sides first prove that they know the secret; each frame is then encrypted and carries a MAC over a
counter, so what is on the wire (tokens among it) cannot be read, changed, repeated or left out. The stream
is SHAKE-256 of a key and the counter, the MAC keyed BLAKE2b over what was encrypted. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import select
import struct
import threading
import time
from typing import Any, NamedTuple

import numpy as np

VERSION = 1
#: So long may the other side be silent, or not take what it is sent.
SILENCE_S = 5.0
_SHAKE_S = 10.0
#: So often who waits for a frame looks whether it is to hang up.
_LOOK_S = 0.25
_MOST_OF_STRANGERS = 4_096
_MOST = 2**30
_LENGTH = struct.Struct(">I")
_COUNTER = struct.Struct(">Q")
_MAC = 16


class Lost(Exception):
    """The connection is of no use any more; the words say why."""


class Message(NamedTuple):
    """One frame: what it is, its named values, and the bytes behind them."""

    do: str
    given: dict[str, Any]
    body: bytes


class Channel:
    """One connection. Frames may be sent from several threads; one thread receives."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        """Take over two descriptors, which may be one."""
        self._read_fd, self._write_fd = read_fd, write_fd
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)
        self._buffer = bytearray()
        self._sending = threading.Lock()
        self._keys: tuple[bytes, bytes] | None = None
        self._sent = self._received = 0
        self._closed = self._over = self._heard = False
        #: For how long nothing has come, in looks by `receive`: this process may have stood still itself.
        self.silent_s = 0.0

    def invite(self, secret: str, patience_s: float = _SHAKE_S) -> None:
        """Prove the secret as the coordinator; Lost where the other side does not know it.

        patience_s: so long may it take to answer; one that is only being started has to import all it needs.
        """
        nonce = secrets.token_hex(16)
        self._put(json.dumps({"perfkit": VERSION, "nonce": nonce}).encode())
        answer = self._plain(patience_s)
        nonces = nonce + str(answer.get("nonce"))
        if not hmac.compare_digest(str(answer.get("proof")), _proof(secret, "shard", nonces)):
            raise Lost("wrong secret")
        self._put(json.dumps({"proof": _proof(secret, "coordinator", nonces)}).encode())
        self._keys = _key(secret, "down", nonces), _key(secret, "up", nonces)

    def join(self, secret: str) -> None:
        """Prove the secret as a shard; Lost where the other side does not know it."""
        hello, nonce = self._plain(), secrets.token_hex(16)
        if hello.get("perfkit") != VERSION:
            raise Lost("the other side is no coordinator of this version of perfkit")
        nonces = str(hello.get("nonce")) + nonce
        self._put(json.dumps({"nonce": nonce, "proof": _proof(secret, "shard", nonces)}).encode())
        try:
            proof = str(self._plain().get("proof"))
        except Lost as lost:
            raise Lost(f"the coordinator refused this secret ({lost})") from None
        if not hmac.compare_digest(proof, _proof(secret, "coordinator", nonces)):
            raise Lost("the coordinator does not know the secret")
        self._keys = _key(secret, "up", nonces), _key(secret, "down", nonces)

    def send(self, do: str, given: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Send a frame; Lost where it cannot be."""
        assert self._keys is not None
        head = json.dumps({"do": do, **(given or {})}).encode()
        plain = _LENGTH.pack(len(head)) + head + body
        with self._sending:
            key, count = self._keys[0], _COUNTER.pack(self._sent)
            self._sent += 1
            sealed = _xor(plain, key + count)
            self._write(_mac(key, count, sealed) + sealed)

    def receive(self, timeout_s: float) -> Message | None:
        """Return the next frame, None when none has come in this time; Lost when there will be none."""
        self._heard = False
        frame = self._frame(time.monotonic() + timeout_s, _MOST)
        # a part of a frame is no silence
        self.silent_s = 0.0 if self._heard or frame is not None else self.silent_s + timeout_s
        if frame is None:
            return None
        assert self._keys is not None
        key, count = self._keys[1], _COUNTER.pack(self._received)
        self._received += 1
        sealed = frame[_MAC:]
        if not hmac.compare_digest(frame[:_MAC], _mac(key, count, sealed)):
            raise Lost("a frame was damaged on the way")
        plain = _xor(sealed, key + count)
        length = _LENGTH.unpack_from(plain)[0]
        given = json.loads(plain[4 : 4 + length])
        return Message(given.pop("do"), given, plain[4 + length :])

    def hang_up(self) -> None:
        """Have the thread that receives meet the end of the connection; it closes it."""
        self._over = True

    def close(self) -> None:
        """End the connection; the other side meets its end."""
        with self._sending:
            if not self._closed:
                self._closed = True
                for fd in {self._read_fd, self._write_fd}:
                    os.close(fd)

    def _plain(self, patience_s: float = _SHAKE_S) -> dict[str, Any]:
        """A frame of somebody who has proved nothing yet."""
        try:
            frame = self._frame(time.monotonic() + patience_s, _MOST_OF_STRANGERS)
            found = json.loads(frame) if frame is not None else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Lost("the other side does not speak perfkit's protocol")
        return found

    def _put(self, frame: bytes) -> None:
        with self._sending:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        left = memoryview(_LENGTH.pack(len(frame)) + frame)
        poll = select.poll()
        if self._closed:
            raise Lost("the connection is closed")
        poll.register(self._write_fd, select.POLLOUT)
        while left:
            try:
                left = left[os.write(self._write_fd, left[: 2**18]) :]
            except BlockingIOError:
                if not poll.poll(SILENCE_S * 1e3):
                    raise Lost(f"it took nothing for {SILENCE_S:g} s") from None
            except OSError as error:
                raise Lost(f"the connection has ended ({error.strerror})") from None

    def _frame(self, deadline: float, most: int) -> bytes | None:
        poll = select.poll()
        if self._closed:
            raise Lost("the connection is closed")
        poll.register(self._read_fd, select.POLLIN)
        while True:
            buffer = self._buffer
            if len(buffer) >= 4:
                end = 4 + _LENGTH.unpack_from(buffer)[0]
                if end > 4 + most:
                    raise Lost(f"a frame of {end - 4:,} bytes, at most {most:,} are allowed")
                if len(buffer) >= end:
                    frame = bytes(buffer[4:end])
                    del buffer[:end]
                    return frame
            if self._over:
                raise Lost("the connection is closed")
            left_s = max(0.0, deadline - time.monotonic())
            if not poll.poll(min(left_s, _LOOK_S) * 1e3):
                if left_s <= _LOOK_S:
                    return None
                continue
            try:
                part = os.read(self._read_fd, 2**20)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Lost(f"the connection has ended ({error.strerror})") from None
            if not part:
                raise Lost("the connection has ended")
            self._heard = True
            buffer += part


def _key(secret: str, what: str, nonces: str) -> bytes:
    return hmac.digest(secret.encode(), f"perfkit {what} {nonces}".encode(), "sha256")


def _proof(secret: str, who: str, nonces: str) -> str:
    return _key(secret, f"proof {who}", nonces).hex()


def _mac(key: bytes, count: bytes, sealed: bytes) -> bytes:
    return hashlib.blake2b(count + sealed, key=key, digest_size=_MAC).digest()


def _xor(text: bytes, seed: bytes) -> bytes:
    stream = hashlib.shake_256(seed).digest(len(text))
    return (np.frombuffer(text, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()
