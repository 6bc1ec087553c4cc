# SPDX-License-Identifier: Apache-2.0
"""Logging as logfmt: one line per change of state, facts as key=value, an event name first."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LEVELS = tuple(_LEVELS)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quote(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not any(character in text for character in ' "='):
        return text
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    # Whatever is not printable could end the line or drive the reader's terminal.
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


class LogfmtFormatter(logging.Formatter):
    """Formats `logger.info("event_name", extra={"key": value})`."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        pairs = [
            f"time={self.formatTime(record, '%Y-%m-%dT%H:%M:%S%z')}",
            f"level={record.levelname.lower()}",
            f"event={_quote(record.getMessage())}",
        ]
        pairs += [f"{key}={_quote(value)}" for key, value in vars(record).items() if key not in _PLAIN]
        line = " ".join(pairs)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger's lines to `stream` (standard error by default) from `level` on."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
