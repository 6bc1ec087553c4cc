# SPDX-License-Identifier: Apache-2.0
"""Who may ask: passwords and bearer tokens, of which a server keeps digests only.

A password is kept as `scrypt$LOG2N$R$P$SALT$HASH` (base64 without padding). It is a person's, so testing it is made
slow; what has passed once is then known by a keyed digest in memory, and a scrape costs microseconds. A bearer token is
32 random bytes, so SHA-256 of it is enough. All comparisons take the same time whatever they find.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from gpuledger.clock import monotonic_ns
from gpuledger.errors import ConfigurationError

_log = logging.getLogger(__name__)

LOG2N, R, P = 14, 8, 1
_HASH = re.compile(r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})", re.ASCII)
_MEMORY_BYTES_MAX = 64 << 20
_PASSWORD_BYTES_MAX = 1024
_TOKENS_MAX = 256
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
BRAKE_NS = 1_000_000_000
"""How long no unknown password is tested after a wrong one: guessing costs the node at most a few % of one core."""


class Verdict(str, Enum):
    """What becomes of a request."""

    ALLOWED = "allowed"
    DENIED = "denied"
    LATER = "later"
    """Not tested: another password was wrong just now."""


def hash_password(password: str) -> str:
    """Return the text to keep of a password."""
    salt = os.urandom(16)
    return f"scrypt${LOG2N}${R}${P}${_text(salt)}${_text(_scrypt(password.encode(), salt, LOG2N, R, P))}"


def new_token() -> tuple[str, str]:
    """Return a random bearer token and the digest to keep of it."""
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode("ascii")).hexdigest()


def _scrypt(password: bytes, salt: bytes, log2n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << log2n, r=r, p=p, maxmem=2 * _MEMORY_BYTES_MAX, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


class _Password:
    """One user's password, as kept."""

    def __init__(self, kept: str, where: str) -> None:
        match = _HASH.fullmatch(kept)
        if match is None:
            raise ConfigurationError(f"{where}: not a password's digest; the command `credential` makes one")
        self._cost = log2n, r, p = int(match[1]), int(match[2]), int(match[3])
        if not (10 <= log2n <= 20 and 1 <= r <= 16 and 1 <= p <= 4 and 128 * r << log2n <= _MEMORY_BYTES_MAX):
            raise ConfigurationError(f"{where}: scrypt with N=2^{log2n}, r={r}, p={p} is too weak or too heavy")
        try:
            self._salt = base64.b64decode(match[4] + "==")
            self._hash = base64.b64decode(match[5] + "=")
        except binascii.Error as exc:
            raise ConfigurationError(f"{where}: not a password's digest: {exc}") from exc

    def is_right(self, password: bytes) -> bool:
        return hmac.compare_digest(_scrypt(password, self._salt, *self._cost), self._hash)


class Passwords:
    """The users of basic authentication."""

    def __init__(self, users: Mapping[str, str], now_ns: Callable[[], int] = monotonic_ns) -> None:
        """`users` is name -> digest; raises ConfigurationError naming the user."""
        for user in users:
            if not user or ":" in user or not user.isprintable():
                raise ConfigurationError(f"basic_auth_users: {user!r} is not a user's name")
        self._users = {name.encode(): _Password(kept, f"basic_auth_users.{name}") for name, kept in users.items()}
        # An unknown user costs the same time as a known one.
        self._nobody = _Password(hash_password(secrets.token_urlsafe(16)), "nobody")
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._secret = os.urandom(32)
        self._passed: dict[bytes, bytes] = {}
        self._wrong_ns: int | None = None

    def check(self, user: bytes, password: bytes) -> Verdict:
        if len(password) > _PASSWORD_BYTES_MAX:
            return Verdict.DENIED
        digest = hmac.digest(self._secret, user + b":" + password, "sha256")
        if hmac.compare_digest(self._passed.get(user, bytes(32)), digest):
            return Verdict.ALLOWED
        with self._lock:
            now_ns = self._now_ns()
            if self._wrong_ns is not None and now_ns - self._wrong_ns < BRAKE_NS:
                return Verdict.LATER
            known = self._users.get(user)
            is_right = (self._nobody if known is None else known).is_right(password)
            if known is None or not is_right:
                self._wrong_ns = self._now_ns()
                return Verdict.DENIED
            self._passed[user] = digest
        return Verdict.ALLOWED


class Tokens:
    """The bearer tokens of a file: one SHA-256 in hexadecimal a line, `#` begins a comment; read again on change."""

    def __init__(self, file: Path) -> None:
        """Raises ConfigurationError where the file cannot be used, or others may read it."""
        self._file = file
        self._lock = threading.Lock()
        self._stamp, self._digests = self._read()
        self._trouble = ""

    def check(self, token: bytes) -> Verdict:
        digest = hashlib.sha256(token).hexdigest()
        matches = [hmac.compare_digest(digest, kept) for kept in self._current()]
        return Verdict.ALLOWED if any(matches) else Verdict.DENIED

    def _current(self) -> tuple[str, ...]:
        with self._lock:
            try:
                if _stamp_of(self._file) != self._stamp:
                    self._stamp, self._digests = self._read()
                    _log.info("tokens_reloaded", extra={"file": self._file, "tokens": len(self._digests)})
                self._trouble = ""
            except (ConfigurationError, OSError) as exc:
                # A file that was withdrawn or broken lets nobody in: whoever removed a token meant it.
                self._stamp, self._digests = (0, 0, 0), ()
                if str(exc) != self._trouble:
                    self._trouble = str(exc)
                    _log.warning("tokens_unreadable", extra={"file": self._file, "why": exc})
            return self._digests

    def _read(self) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        try:
            stamp = _stamp_of(self._file)
            mode = stat.S_IMODE(self._file.stat().st_mode)
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
            raise ConfigurationError(f"{self._file}: cannot be read: {reason}") from exc
        # The group may read it: digests of random tokens tell nothing, and Kubernetes gives a pod its secrets so.
        if mode & 0o037:
            raise ConfigurationError(
                f"{self._file}: mode {mode:04o} lets others use the tokens' file; set it to 0600 or 0640"
            )
        digests = []
        for number, line in enumerate(lines, start=1):
            text = line.split("#", 1)[0].strip()
            if text and _DIGEST.fullmatch(text) is None:
                raise ConfigurationError(f"{self._file}: line {number} is not a SHA-256 in 64 lower-case digits")
            if text:
                digests.append(text)
        if len(digests) > _TOKENS_MAX:
            raise ConfigurationError(f"{self._file}: more than {_TOKENS_MAX} tokens")
        return stamp, tuple(digests)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


class Access:
    """Judges the Authorization header; with neither passwords nor tokens everybody may ask."""

    def __init__(self, passwords: Passwords | None = None, tokens: Tokens | None = None) -> None:
        self._passwords = passwords
        self._tokens = tokens

    @property
    def is_open(self) -> bool:
        return self._passwords is None and self._tokens is None

    @property
    def challenges(self) -> tuple[str, ...]:
        """Return the values of WWW-Authenticate."""
        basic = () if self._passwords is None else ('Basic realm="gpuledger", charset="UTF-8"',)
        return basic if self._tokens is None else (*basic, 'Bearer realm="gpuledger"')

    def judge(self, header: str | None) -> Verdict:
        if self.is_open:
            return Verdict.ALLOWED
        scheme, _, rest = (header or "").partition(" ")
        if scheme.lower() == "bearer" and self._tokens is not None:
            return self._tokens.check(rest.strip().encode("utf-8", "surrogateescape"))
        if scheme.lower() == "basic" and self._passwords is not None:
            try:
                user, colon, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
            except (binascii.Error, ValueError):
                return Verdict.DENIED
            return self._passwords.check(user, password) if colon else Verdict.DENIED
        return Verdict.DENIED
