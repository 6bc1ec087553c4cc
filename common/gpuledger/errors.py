# SPDX-License-Identifier: Apache-2.0
"""Every error a person may see, as a tree; foreign errors are mapped onto it at their door.

GpuledgerError              one clear sentence, safe to show
├── ConfigurationError      a file, key or flag is wrong; commands exit 2
├── ReadingError            bytes that are not a valid reading
├── SealError               a signature, key or hash does not hold
├── StorageError            a file or directory of ours cannot be used
└── EngineError             a Prometheus-compatible engine that cannot be asked, or does not answer whole

The text of each says what is wrong and where.
"""

from __future__ import annotations


class GpuledgerError(Exception):
    """Base of all errors raised on purpose; its text is one sentence for a person."""

    exit_code = 1


class ConfigurationError(GpuledgerError):
    """A file, key, flag or declaration is wrong; the text names it."""

    exit_code = 2


class ReadingError(GpuledgerError):
    """Bytes that do not decode to a valid reading; the text names the field."""


class SealError(GpuledgerError):
    """A signature, key or hash that does not hold."""


class StorageError(GpuledgerError):
    """A file or directory that cannot be read or written; the text names it."""


class EngineError(GpuledgerError):
    """A Prometheus-compatible engine that cannot be reached, refuses, or does not answer whole."""
