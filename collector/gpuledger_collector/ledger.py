# SPDX-License-Identifier: Apache-2.0
"""The ledger: readings and roster in, one account per installed GPU and hour out (accounting.md, 2, "The collector").

Pure and order-free: a function of the set of readings, so repeats, lateness and reordering change nothing. Every
installed cell is accounted for exactly once; what no reading covers is dark unless it was declared beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpuledger.accounting import Account, add
from gpuledger.cells import CELL_MS, HOUR_MS, floor_to
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import Reading
from gpuledger.states import State, Uncovered
from gpuledger.workload_time import UNATTRIBUTED, WorkloadTime
from gpuledger_collector.allotment import NO_ROWS, AllotmentRows
from gpuledger_collector.cell_account import account_cell
from gpuledger_collector.classify.signs import HourSigns, Seen, gather
from gpuledger_collector.commerce import CommerceRow
from gpuledger_collector.findings import Finding as Finding  # noqa: PLC0414 - for others a part of the ledger
from gpuledger_collector.findings import out_of_service, unrostered
from gpuledger_collector.given import Given
from gpuledger_collector.leases import Conflict, LeaseBook
from gpuledger_collector.roster import Entry, Roster, Window, installed_cells
from gpuledger_collector.scheduling import NOTHING_SEEN, Scheduling
from gpuledger_collector.spare import NO_TAGS, FreeTags


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A verified reading as the log holds it; `digest` is that of its envelope's bytes."""

    digest: str
    reading: Reading
    workloads: tuple[WorkloadTime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HourRow:
    """One installed GPU in one hour (or the part of it that is installed and already complete)."""

    hour_ms: int
    gpu: str
    serial: str | None
    model: str | None
    site: str
    cluster: str
    pool: str
    node: str
    simulated: bool
    account: Account
    uncovered_slice_ms: Mapping[Uncovered, int] = field(default_factory=dict)
    """Why the agent covered nothing, where it said so; part of the dark (or declared) time."""
    active_known_ms: int = 0
    memory_used_bytes_max: int | None = None
    hang_suspicion_ms: int = 0
    intervals_ms: tuple[int, ...] = ()
    activity_sources: tuple[str, ...] = ()
    tags: FreeTags = NO_TAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderRow:
    """Busy and held time of one workload on one GPU (all its instances there) in one hour; names are digests."""

    hour_ms: int
    gpu: str
    node: str
    workload: str
    user: str | None
    busy_slice_ms: int
    held_slice_ms: int
    memory_bytes_max: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRow:
    """One installed GPU in one cell: its account, and the readings that made it."""

    cell_ms: int
    entry: Entry
    account: Account
    parts: tuple[tuple[Accepted, GpuTime], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Rows in canonical order (hour, gpu, ...), and what was found on the way; `signs` tell what workloads are for."""

    hours: tuple[HourRow, ...]
    holders: tuple[HolderRow, ...]
    findings: tuple[Finding, ...]
    commerce: tuple[CommerceRow, ...] = ()
    allotted: AllotmentRows = NO_ROWS
    signs: tuple[HourSigns, ...] = ()


def build(
    readings: Iterable[Accepted],
    roster: Roster,
    start_ms: int,
    end_ms: int,
    *,
    leases: LeaseBook | None = None,
    scheduling: Scheduling = NOTHING_SEEN,
) -> Ledger:
    """Return the ledger of [start_ms, end_ms), both on cell edges.

    `readings` must hold every accepted reading of the cells in the span. Readings of other cells add no time; they
    only show which names were used twice, so hand in all that carry the name of one in the span.
    """
    return build_parts([(readings, roster)], start_ms, end_ms, leases=leases, scheduling=scheduling)


def build_parts(
    parts: Iterable[tuple[Iterable[Accepted], Roster]],
    start_ms: int,
    end_ms: int,
    *,
    leases: LeaseBook | None = None,
    scheduling: Scheduling = NOTHING_SEEN,
) -> Ledger:
    """Return what `build` does, of a fleet that comes in parts which share no GPU, node or key (see shards)."""
    given = Given(leases, scheduling)
    findings: set[Finding] = set()
    hours: list[tuple[Entry, HourRow]] = []
    holders: list[HolderRow] = []
    signs: list[HourSigns] = []
    # Before anything was installed nothing is accounted for, and queues neither.
    installed_from_ms = end_ms
    for readings, roster in parts:
        index, equivocal, found = _index(readings, roster, start_ms, end_ms)
        findings.update(found)
        begins = (floor_to(entry.from_ms, CELL_MS) for entry in roster.entries)
        installed_from_ms = min([installed_from_ms, *begins])
        seen: list[Seen] = []
        for gpu, entries in roster.by_gpu().items():
            cells: dict[tuple[int, Entry], list[CellRow]] = {}
            for cell_ms, entry in installed_cells(entries, start_ms, end_ms):
                own, dropped = _settle(index.pop((gpu, cell_ms), []), equivocal, entry, cell_ms)
                findings.update(dropped)
                row = _account(cell_ms, entry, own, roster.windows, given)
                _give(row, given)
                cells.setdefault((floor_to(cell_ms, HOUR_MS), entry), []).append(row)
            for (hour_ms, entry), rows in cells.items():
                hour = _hour_row(hour_ms, entry, rows)
                hours.append((entry, hour))
                if hour.hang_suspicion_ms >= HANG_SUSPICION_MS_MIN:
                    findings.add(_hang_suspected(hour))
                holders.extend(_holder_rows(hour_ms, entry, rows))
                seen.extend(_seen(entry, rows))
        # What is left was said about cells in which the roster has the GPU nowhere.
        findings.update(out_of_service(gpu, part[0].reading) for (gpu, _), said in index.items() for part in said)
        signs.extend(gather(seen))
    commerce, conflicts = given.commerce.close()
    findings.update(_conflict(cell_ms, conflict) for cell_ms, conflict in conflicts)
    tagged = (replace(hour, tags=given.tags(hour.hour_ms, entry)) for entry, hour in hours)
    return Ledger(
        hours=tuple(sorted(tagged, key=lambda r: (r.hour_ms, r.gpu, r.node))),
        holders=tuple(sorted(holders, key=lambda r: (r.hour_ms, r.gpu, r.workload, r.user or ""))),
        findings=tuple(sorted(findings)),
        commerce=tuple(commerce),
        allotted=given.allotments.close(max(start_ms, installed_from_ms), end_ms),
        signs=tuple(sorted(signs, key=lambda s: (s.hour_ms, s.node, s.workload))),
    )


def cell_rows(
    readings: Iterable[Accepted],
    roster: Roster,
    cell_ms: int,
    *,
    leases: LeaseBook | None = None,
    scheduling: Scheduling = NOTHING_SEEN,
) -> list[CellRow]:
    """Return one row per GPU installed in the cell, in order of GPU identity."""
    index, equivocal, _ = _index(readings, roster, cell_ms, cell_ms + CELL_MS)
    given = Given(leases, scheduling)
    rows = []
    for gpu, entries in roster.by_gpu().items():
        for start_ms, entry in installed_cells(entries, cell_ms, cell_ms + CELL_MS):
            parts, _ = _settle(index.get((gpu, start_ms), []), equivocal, entry, start_ms)
            rows.append(_account(start_ms, entry, parts, roster.windows, given))
    return rows


HANG_SUSPICION_MS_MIN = 60_000
"""So much suspicion in one hour is a finding."""

_Part = tuple[Accepted, GpuTime]


def _conflict(cell_ms: int, conflict: Conflict) -> Finding:
    at_ms = floor_to(cell_ms, HOUR_MS)
    return Finding(at_ms=at_ms, kind=conflict.kind, subject=conflict.subject, text=conflict.text)


def _index(
    readings: Iterable[Accepted], roster: Roster, start_ms: int, end_ms: int
) -> tuple[dict[tuple[str, int], list[_Part]], frozenset[str], set[Finding]]:
    """Return each rostered GPU's parts by (identity, cell), the digests of equivocal readings, unrostered UUIDs."""
    by_uuid = {entry.gpu: entry.gpu for entry in roster.entries}
    by_serial = {entry.serial: entry.gpu for entry in roster.entries if entry.gpu == f"serial:{entry.serial}"}
    parts: dict[tuple[str, int], list[_Part]] = {}
    findings: set[Finding] = set()
    unique = _unique(readings)
    for accepted in unique.values():
        reading = accepted.reading
        if not start_ms <= reading.cell_ms < end_ms:
            continue
        for gpu in reading.gpus:
            identity = by_uuid.get(gpu.uuid)
            if identity is None and gpu.serial is not None:
                identity = by_serial.get(gpu.serial)
            if identity is None:
                findings.add(unrostered(reading, gpu))
                continue
            parts.setdefault((identity, reading.cell_ms), []).append((accepted, gpu))
    return parts, _equivocal(unique.values()), findings


def _unique(readings: Iterable[Accepted]) -> dict[str, Accepted]:
    """Return each reading once, by digest, with its workloads if they came with any of its copies."""
    unique: dict[str, Accepted] = {}
    for accepted in readings:
        known = unique.get(accepted.digest)
        if known is None or len(known.workloads) < len(accepted.workloads):
            unique[accepted.digest] = accepted
    return unique


def _equivocal(readings: Iterable[Accepted]) -> frozenset[str]:
    """Return the digests of readings that share node, session and sequence and differ in bytes.

    Wherever they are: a node may use one name for two cells, or leave a GPU out of one of the two.
    """
    by_name: dict[tuple[str, str, int], list[str]] = {}
    for accepted in readings:
        reading = accepted.reading
        by_name.setdefault((reading.node_id, reading.session, reading.sequence), []).append(accepted.digest)
    return frozenset(digest for digests in by_name.values() if len(digests) > 1 for digest in digests)


def _hang_suspected(row: HourRow) -> Finding:
    seconds = row.hang_suspicion_ms // 1000
    return Finding(
        at_ms=row.hour_ms,
        kind="hang_suspected",
        subject=row.gpu,
        text=f"{row.node}: a source claimed high activity of {row.gpu} at idle power for {seconds} s of one hour",
    )


def _settle(
    parts: Sequence[_Part], equivocal: frozenset[str], entry: Entry, cell_ms: int
) -> tuple[list[_Part], list[Finding]]:
    """Return the parts of one GPU and cell that count, in order of time, and findings about the others."""
    if len(parts) == 1 and parts[0][0].reading.node_name == entry.node and parts[0][0].digest not in equivocal:
        return [parts[0]], []  # as what follows would, and nearly every cell is like this
    findings: list[Finding] = []
    own: list[_Part] = []
    hour_ms = floor_to(cell_ms, HOUR_MS)
    for part in parts:
        node = part[0].reading.node_name
        if node == entry.node:
            own.append(part)
        else:
            text = f"{node} claims {entry.gpu}, which the roster has at {entry.node}; the claim does not count"
            findings.append(Finding(at_ms=hour_ms, kind="foreign_claim", subject=entry.gpu, text=text))
    own.sort(key=lambda part: (part[0].reading.start_ms, part[0].reading.end_ms, part[0].digest))
    bad = {("equivocation", part[0].digest) for part in own if part[0].digest in equivocal} | _overlaps(own)
    for kind in sorted({kind for kind, _ in bad}):
        text = f"{entry.node} sealed {kind} about {entry.gpu} in one cell; the span counts as dark"
        findings.append(Finding(at_ms=hour_ms, kind=kind, subject=entry.gpu, text=text))
    dropped = {digest for _, digest in bad}
    return [part for part in own if part[0].digest not in dropped], findings


def _overlaps(parts: Sequence[_Part]) -> set[tuple[str, str]]:
    """Return (kind, digest) of parts, sorted by start, whose spans overlap another's."""
    found: set[tuple[str, str]] = set()
    furthest: _Part | None = None
    for part in parts:
        if furthest is not None and part[0].reading.start_ms < furthest[0].reading.end_ms:
            found |= {("overlap", part[0].digest), ("overlap", furthest[0].digest)}
        if furthest is None or part[0].reading.end_ms > furthest[0].reading.end_ms:
            furthest = part
    return found


def _account(cell_ms: int, entry: Entry, parts: Sequence[_Part], windows: Sequence[Window], given: Given) -> CellRow:
    declared = {window.kind for window in windows if window.covers(entry, cell_ms)}
    is_given = given.is_given(cell_ms, entry, _index_of(parts))
    account = account_cell([gpu for _, gpu in parts], declared, is_given=is_given)
    return CellRow(cell_ms=cell_ms, entry=entry, account=account, parts=tuple(parts))


def _give(row: CellRow, given: Given) -> None:
    lengths = [(accepted.reading.end_ms - accepted.reading.start_ms, gpu) for accepted, gpu in row.parts]
    workloads = [part for accepted, gpu in row.parts for part in accepted.workloads if part.uuid == gpu.uuid]
    given.add(row.cell_ms, row.entry, row.account, _index_of(row.parts), lengths, workloads)


def _index_of(parts: Sequence[_Part]) -> int | None:
    """Return the GPU's index on its node, as its agent says; None where it does not, or the GPU is divided."""
    told = {None if gpu.instances else gpu.index for _, gpu in parts}
    return told.pop() if len(told) == 1 else None


def _hour_row(hour_ms: int, entry: Entry, rows: Sequence[CellRow]) -> HourRow:
    gpus = [gpu for row in rows for _, gpu in row.parts]
    readings = [accepted.reading for row in rows for accepted, _ in row.parts]
    uncovered: dict[Uncovered, int] = {}
    for gpu in gpus:
        for reason, amount in gpu.uncovered_slice_ms.items():
            uncovered[reason] = uncovered.get(reason, 0) + amount
    memory = [gpu.memory_used_bytes_max for gpu in gpus if gpu.memory_used_bytes_max is not None]
    return HourRow(
        hour_ms=hour_ms,
        gpu=entry.gpu,
        # From the roster alone: were they read from what reported, dark time would drop out of its group.
        serial=entry.serial,
        model=entry.model,
        site=entry.site,
        cluster=entry.cluster,
        pool=entry.pool,
        node=entry.node,
        simulated=any(reading.simulated for reading in readings),
        account=add([row.account for row in rows]),
        uncovered_slice_ms=dict(sorted(uncovered.items())),
        active_known_ms=sum(gpu.active_known_ms for gpu in gpus),
        memory_used_bytes_max=max(memory) if memory else None,
        hang_suspicion_ms=sum(gpu.hang_suspicion_ms for gpu in gpus),
        intervals_ms=tuple(sorted({reading.interval_ms for reading in readings})),
        activity_sources=tuple(sorted({gpu.activity_source for gpu in gpus if gpu.activity_source is not None})),
    )


def _holder_rows(hour_ms: int, entry: Entry, rows: Sequence[CellRow]) -> list[HolderRow]:
    times: dict[tuple[str, str | None], dict[State, int]] = {}
    memory: dict[tuple[str, str | None], int] = {}
    for row in rows:
        for accepted, gpu in row.parts:
            # Held time without its workloads is still held by somebody, and must not drop out of the list.
            missing = {state: gpu.state_slice_ms.get(state, 0) for state in (State.BUSY, State.HELD)}
            for part in accepted.workloads:
                if part.uuid != gpu.uuid:
                    continue
                key = (part.workload, part.user)
                _add_times(times, key, part.state_slice_ms)
                missing = {state: left - part.state_slice_ms.get(state, 0) for state, left in missing.items()}
                if part.memory_bytes_max is not None:
                    memory[key] = max(memory.get(key, 0), part.memory_bytes_max)
            if any(missing.values()):
                _add_times(times, (UNATTRIBUTED, None), missing)
    return [
        HolderRow(
            hour_ms=hour_ms,
            gpu=entry.gpu,
            node=entry.node,
            workload=workload,
            user=user,
            busy_slice_ms=states.get(State.BUSY, 0),
            held_slice_ms=states.get(State.HELD, 0),
            memory_bytes_max=memory.get((workload, user)),
        )
        for (workload, user), states in times.items()
        # Who only had time of other states (an allocation that nobody used, say) holds nothing here.
        if states.get(State.BUSY, 0) + states.get(State.HELD, 0) > 0
    ]


def _seen(entry: Entry, rows: Sequence[CellRow]) -> Iterator[Seen]:
    for row in rows:
        for accepted, gpu in row.parts:
            for part in accepted.workloads:
                if part.uuid == gpu.uuid:
                    yield Seen(row.cell_ms, entry.site, entry.cluster, entry.node, part)


def _add_times(
    times: dict[tuple[str, str | None], dict[State, int]], key: tuple[str, str | None], amounts: Mapping[State, int]
) -> None:
    sums = times.setdefault(key, {})
    for state, amount in amounts.items():
        sums[state] = sums.get(state, 0) + amount
