# SPDX-License-Identifier: Apache-2.0
"""The door to Slurm: one `squeue --json` and one `scontrol -o show node` for a whole cluster, bounded in time and size.

SlurmUnavailable   a command is missing, fails, takes too long or says too much
SlurmError         what it said cannot be understood
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpuledger.errors import GpuledgerError
from gpuledger_collector.schedulers.slurm import read_cluster
from gpuledger_collector.schedulers.view import ClusterView, short_reason

ANSWER_BYTES_MAX = 256 << 20
TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 16


class SlurmUnavailable(GpuledgerError):
    """Slurm could not be asked; the text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmCluster:
    """One cluster and the commands that ask it; `config_file` is SLURM_CONF for them, None: their own default.

    With a `host` they run there, by ssh without a terminal or a question.
    """

    name: str
    squeue: str = "squeue"
    scontrol: str = "scontrol"
    config_file: Path | None = None
    host: str | None = None

    def command(self, *words: str) -> tuple[str, ...]:
        """Return what is run for a command of Slurm's."""
        if self.host is None:
            return words
        given = ["TZ=UTC", "LC_ALL=C.UTF-8"]
        given += [] if self.config_file is None else [f"SLURM_CONF={self.config_file}"]
        far = " ".join(shlex.quote(word) for word in ("env", *given, *words))
        return "ssh", "-oBatchMode=yes", "-oConnectTimeout=10", "-T", self.host, far

    def environment(self) -> Mapping[str, str]:
        """Return what the commands run with: scontrol prints local times, so local time is UTC."""
        found = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SQUEUE_", "LC_"))}
        found |= {"TZ": "UTC", "LC_ALL": "C.UTF-8"}
        if self.config_file is not None:
            found["SLURM_CONF"] = str(self.config_file)
        elif "SLURM_CONF" in os.environ:
            found["SLURM_CONF"] = os.environ["SLURM_CONF"]
        return found


async def look(cluster: SlurmCluster, now_ms: int, timeout_s: float = TIMEOUT_S) -> ClusterView:
    """Return the view of a cluster as of now; raises SlurmUnavailable and SlurmError."""
    squeue = await _run(cluster, timeout_s, cluster.squeue, "--json")
    nodes = await _run(cluster, timeout_s, cluster.scontrol, "-o", "show", "node")
    # Megabytes of JSON would hold up everything else in the loop.
    return await asyncio.to_thread(read_cluster, cluster.name, now_ms, squeue, nodes)


async def _run(cluster: SlurmCluster, timeout_s: float, *command: str) -> str:
    what = f"{' '.join(command)} of cluster {cluster.name}"
    try:
        process = await asyncio.create_subprocess_exec(
            *cluster.command(*command),
            env=dict(cluster.environment()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        raise SlurmUnavailable(f"{what} cannot be run: {exc.strerror}") from exc
    reads = [asyncio.create_task(_read(stream, what)) for stream in (process.stdout, process.stderr)]
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await asyncio.gather(*reads)
            code = await process.wait()
    except TimeoutError as exc:
        raise SlurmUnavailable(f"{what} did not answer within {timeout_s:g} s") from exc
    finally:
        if process.returncode is None:
            await _end(process, reads)
    if code != 0:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        said = f": {short_reason(lines[0])}" if lines else ""
        raise SlurmUnavailable(f"{what} ended with {code}{said}")
    return output


async def _end(process: asyncio.subprocess.Process, reads: Sequence[asyncio.Task[str]]) -> None:
    """Kill a command with all that it started, and take what is left in its pipes: until then it would not end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for task in reads:
        task.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(_CHUNK_BYTES):
            continue
    await process.wait()


async def _read(stream: asyncio.StreamReader | None, what: str) -> str:
    if stream is None:
        return ""
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise SlurmUnavailable(f"{what} said more than {ANSWER_BYTES_MAX} bytes")
        chunks.append(chunk)
    return b"".join(chunks).decode("utf-8", "replace")
