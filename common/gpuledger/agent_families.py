# SPDX-License-Identifier: Apache-2.0
"""The families an agent exposes about itself."""

from __future__ import annotations

from gpuledger.family import Family, Kind, family, single

AGENT_ITSELF: tuple[Family, ...] = (
    family(
        "gpuledger_agent_info",
        Kind.GAUGE,
        "node_id node version simulated driver_version",
        "Who the agent is; simulated says whether NVML is the simulator; always 1.",
        "never; driver_version is empty while the driver is not attached",
        "1",
    ),
    single("gpuledger_agent_driver_attached", Kind.GAUGE, "1 while NVML is initialised, 0 while the agent retries."),
    family(
        "gpuledger_agent_driver_failures_total",
        Kind.COUNTER,
        "reason",
        "Failed attempts to use NVML, by reason.",
        "there was no such failure",
        "about 10 reasons",
    ),
    single(
        "gpuledger_agent_gpus_unidentified",
        Kind.GAUGE,
        "GPUs the driver lists that could not be told apart: lost before this agent knew them; in no other family.",
        "the driver is not attached",
    ),
    single(
        "gpuledger_agent_tick_timestamp_seconds",
        Kind.GAUGE,
        "Start of the last tick, POSIX time.",
        "before the first tick",
    ),
    single("gpuledger_agent_tick_interval_seconds", Kind.GAUGE, "Configured sampling interval."),
    single("gpuledger_agent_ticks_total", Kind.COUNTER, "Ticks made."),
    family(
        "gpuledger_agent_sessions_total",
        Kind.COUNTER,
        "cause",
        "Sessions begun since the agent started: start, or clock_step.",
        "there was none for that cause",
        "2 causes",
    ),
    family(
        "gpuledger_agent_source_duration_seconds",
        Kind.GAUGE,
        "source",
        "Wall time the source took in the last tick it ran, over all GPUs.",
        "the source has not run yet",
        "sources",
    ),
    family(
        "gpuledger_agent_source_success",
        Kind.GAUGE,
        "source",
        "1 if the source answered for every GPU in the last tick it ran, 0 otherwise.",
        "the source has not run yet",
        "sources",
    ),
    family(
        "gpuledger_agent_source_failures_total",
        Kind.COUNTER,
        "source error",
        "Failed reads by source and error.",
        "there was no such failure",
        "sources x NVML errors",
    ),
    single("gpuledger_agent_seals_total", Kind.COUNTER, "Readings sealed and on disk."),
    single(
        "gpuledger_agent_seal_failures_total",
        Kind.COUNTER,
        "Attempts to write a sealed reading that failed; each is retried at every tick.",
    ),
    single("gpuledger_agent_seals_pending", Kind.GAUGE, "Finished cells that are not on disk yet."),
    single(
        "gpuledger_agent_seals_dropped_total",
        Kind.COUNTER,
        "Readings given up because a week of them could not be written: their time is dark.",
    ),
    single(
        "gpuledger_agent_crash_file_failures_total",
        Kind.COUNTER,
        "Ticks whose open cell could not be written to the crash file: kill -9 would darken it.",
    ),
    single(
        "gpuledger_agent_journal_last_sequence",
        Kind.GAUGE,
        "Sequence number of the newest sealed reading.",
        "nothing was sealed yet",
    ),
    single("gpuledger_agent_journal_size_bytes", Kind.GAUGE, "Size of the journal on disk."),
    family(
        "gpuledger_agent_exposition_failures_total",
        Kind.COUNTER,
        "family",
        "Scrapes that lack a family because it could not be built: a bug, logged with its traceback.",
        "every family could be built",
        "families",
    ),
)
"""What an agent exposes about itself."""
