# SPDX-License-Identifier: Apache-2.0
"""What the scripted library answers at a moment: the same rules as library/*.c, written a second time.

The library's tests hold the two against each other; the oracle reads from here. Times are nanoseconds since script
start; integrals are exact integers (value × ns).
"""

from __future__ import annotations

from bisect import bisect_right

from tests.abi.script import (
    BOARD,
    COUNTERS_ABSENT,
    COUNTERS_BETWEEN_SAMPLES,
    FULL,
    Constant,
    Failure,
    Gpu,
    Instance,
    MigDevice,
    Rule,
    Script,
    Signal,
    Wave,
    Worker,
)

MS_NS = 1_000_000
SECOND_NS = 1_000_000_000
PERCENT = 10_000
GPM_REFRESH_NS = 100 * MS_NS
SAMPLES_RING = 120
MIB = 1 << 20
LINKS = ("pcie_tx", "pcie_rx", "nvlink_tx", "nvlink_rx")
UPTIME_NS = 10 * 86_400 * SECOND_NS
HANDLE = "nvmlDeviceGetHandleByIndex_v2"
WAIT = "nvmlEventSetWait_v2"
DEFAULTS = {"power_mw": 70_000}


def _antiderivative(wave: Wave, at_ns: int) -> int:
    period_ns, on_ns = wave.period_ms * MS_NS, wave.on_ms * MS_NS
    periods, rest_ns = divmod(at_ns - wave.phase_ms * MS_NS, period_ns)
    whole = on_ns * wave.high + (period_ns - on_ns) * wave.low
    return periods * whole + min(rest_ns, on_ns) * wave.high + max(rest_ns - on_ns, 0) * wave.low


def _area(signal: Signal, from_ns: int, to_ns: int) -> int:
    if isinstance(signal, Failure):
        return 0
    if isinstance(signal, Constant):
        return signal.value * (to_ns - from_ns)
    return _antiderivative(signal, to_ns) - _antiderivative(signal, from_ns)


class Track:
    """One quantity over time."""

    def __init__(self, spans: list[tuple[int, Signal]]) -> None:
        self._starts_ns = [from_ms * MS_NS for from_ms, _ in spans]
        self._signals = [signal for _, signal in spans]
        self._before = [0]
        self._run_starts_ns: list[int | None] = [None]
        for index in range(1, len(spans)):
            last = self._signals[index - 1]
            area = _area(last, self._starts_ns[index - 1], self._starts_ns[index])
            self._before.append(self._before[-1] + area)
            broken = isinstance(last, Failure)
            self._run_starts_ns.append(self._starts_ns[index] if broken else self._run_starts_ns[-1])

    def _index(self, at_ns: int) -> int:
        return max(bisect_right(self._starts_ns, at_ns) - 1, 0)

    def value(self, at_ns: int) -> int | Failure:
        """The value at a moment, or why there is none."""
        signal = self._signals[self._index(at_ns)]
        if isinstance(signal, Failure):
            return signal
        if isinstance(signal, Constant):
            return signal.value
        on = (at_ns - signal.phase_ms * MS_NS) % (signal.period_ms * MS_NS) < signal.on_ms * MS_NS
        return signal.high if on else signal.low

    def integral(self, at_ns: int) -> int:
        """Value × ns from script start to a moment."""
        index = self._index(at_ns)
        return self._before[index] + _area(self._signals[index], self._starts_ns[index], at_ns)

    def is_whole(self, from_ns: int, to_ns: int) -> bool:
        """No failing stretch ended after `from_ns`, up to the moment `to_ns`."""
        run_ns = self._run_starts_ns[self._index(to_ns)]
        return run_ns is None or run_ns <= from_ns

    def mean(self, at_ns: int, window_ns: int, unit: int) -> int | Failure:
        """The mean over the window before a moment, in whole units, rounded half up."""
        now = self.value(at_ns)
        if isinstance(now, Failure):
            return now
        run_ns = self._run_starts_ns[self._index(at_ns)]
        from_ns = at_ns - window_ns if run_ns is None else max(run_ns, at_ns - window_ns)
        if from_ns == at_ns:
            return (2 * now + unit) // (2 * unit)
        divisor = (at_ns - from_ns) * unit
        return (2 * (self.integral(at_ns) - self.integral(from_ns)) + divisor) // (2 * divisor)


def is_during(at_ns: int, from_ms: int, to_ms: int | None) -> bool:
    """Does a moment lie in [from, to)?"""
    return from_ms * MS_NS <= at_ns and (to_ms is None or at_ns < to_ms * MS_NS)


class WorkerAnswers:
    """What a GPU or a GPU instance answers."""

    def __init__(self, worker: Worker, index: int, gpm_step_ms: int) -> None:
        self.index = index
        self.ordinal: int | None = None
        self._worker = worker
        self._tracks = {name: Track(spans) for name, spans in worker.tracks.items()}
        self._gpm_step_ns = gpm_step_ms * MS_NS

    def track(self, name: str) -> Track:
        """The quantity's track, scripted or not."""
        if name not in self._tracks:
            self._tracks[name] = Track([(0, Constant(DEFAULTS.get(name, 0)))])
        return self._tracks[name]

    def gpm(
        self, metric: str, first_ns: int, second_ns: int, first: WorkerAnswers | None = None
    ) -> float | Failure | None:
        """One GPM metric between two samples, in percent or MiB/s; None is NaN. As in the library, in doubles.

        `first` is whose the first sample was, if it was another instance of the same id.
        """
        if metric == "graphics" and metric not in self._tracks:
            metric = "utilization"
        if metric not in self._tracks:
            return Failure()
        track = self._tracks[metric]
        first_ns, second_ns = self._refreshed(first_ns), self._refreshed(second_ns)
        now = track.value(second_ns)
        if isinstance(now, Failure):
            return now
        if second_ns - first_ns < GPM_REFRESH_NS or not track.is_whole(first_ns, second_ns):
            return None
        before = self if first is None else first
        area = track.integral(second_ns) - before.track(metric).integral(first_ns)
        scale = 1 / MIB if metric.removesuffix("_bytes") in LINKS else 1e-4
        return float(area) / float(second_ns - first_ns) * scale

    def _refreshed(self, at_ns: int) -> int:
        """The moment of which a sample of GPM is that is taken now."""
        return at_ns - at_ns % self._gpm_step_ns if self._gpm_step_ns > 0 else at_ns

    def memory_bytes(self, at_ns: int) -> int | Failure:
        """The memory in use."""
        return self.track("memory_used_bytes").value(at_ns)

    def own_processes(self, kind: str, at_ns: int, compute: int | None = None) -> list[int]:
        """The pids one list shows, in one compute instance or in all."""
        return [
            process.pid
            for process in self._worker.processes
            if process.kind == kind
            and is_during(at_ns, process.from_ms, process.to_ms)
            and compute in (None, process.compute)
        ]


class InstanceAnswers(WorkerAnswers):
    """One GPU instance's answers."""

    def __init__(self, board: GpuAnswers, ordinal: int) -> None:
        self.instance: Instance = board.gpu.instances[ordinal]
        super().__init__(self.instance, board.index, board.gpm_step_ms)
        self.board = board
        self.ordinal = ordinal

    @property
    def name(self) -> tuple[str, int, int, int]:
        """What tells it from another instance with its id."""
        spec = self.instance
        return spec.devices[0].uuid, spec.instance_id, spec.slices, spec.memory_total_bytes >> 20 << 20


class GpuAnswers(WorkerAnswers):
    """One GPU's answers."""

    def __init__(self, script: Script, index: int) -> None:
        self.gpu: Gpu = script.gpus[index]
        self.gpm_step_ms = script.gpm_step_ms
        super().__init__(self.gpu, index, self.gpm_step_ms)
        self._period_ns = script.utilization_period_ms * MS_NS
        self._samples_hz = script.samples_hz
        self._steps_ms = script.steps_ms
        self.is_gpm_whole = script.mig_parent_gpm
        self.instances = [InstanceAnswers(self, ordinal) for ordinal in range(len(self.gpu.instances))]

    def is_divided(self, at_ns: int) -> bool:
        """The current MIG mode."""
        modes = [on for from_ms, on, _ in self.gpu.mig if from_ms * MS_NS <= at_ns]
        return bool(modes) and modes[-1]

    def in_slot(self, slot: int, at_ns: int) -> tuple[InstanceAnswers, MigDevice] | None:
        """The MIG device that has a slot now."""
        found = self._last_in_slot(slot, at_ns)
        if found is None or not self.is_divided(at_ns):
            return None
        one, device = found
        is_there = is_during(at_ns, 0, device.to_ms) and is_during(at_ns, 0, one.instance.to_ms)
        return found if is_there else None

    def hands_out(self, slot: int, at_ns: int) -> bool:
        """Does a look-up of the slot give a handle, of a ghost maybe?"""
        found = self._last_in_slot(slot, at_ns)
        return self.in_slot(slot, at_ns) is not None or (found is not None and found[1].ghost)

    def _last_in_slot(self, slot: int, at_ns: int) -> tuple[InstanceAnswers, MigDevice] | None:
        devices = [(one, device) for one in self.instances for device in one.instance.devices]
        begun = [pair for pair in devices if pair[1].slot == slot and pair[1].from_ms * MS_NS <= at_ns]
        latest_ms = max((device.from_ms for _, device in begun), default=0)
        return next((pair for pair in reversed(begun) if pair[1].from_ms == latest_ms), None)

    def by_id(self, instance_id: int, at_ns: int) -> InstanceAnswers | None:
        """The GPU instance that has an id now."""
        if not self.is_divided(at_ns):
            return None
        for one in self.instances:
            if one.instance.instance_id == instance_id and is_during(at_ns, one.instance.from_ms, one.instance.to_ms):
                return one
        return None

    def memory_bytes(self, at_ns: int) -> int | Failure:
        """The memory in use: a divided GPU's is that of its instances too."""
        used = super().memory_bytes(at_ns)
        if isinstance(used, Failure) or not self.is_divided(at_ns):
            return used
        for one in self.instances:
            part = one.memory_bytes(at_ns)
            if is_during(at_ns, one.instance.from_ms, one.instance.to_ms) and not isinstance(part, Failure):
                used += part
        return used

    def processes(self, kind: str, at_ns: int) -> list[tuple[int, int | None]]:
        """What one list of the board shows: (pid, id of the GPU instance or None)."""
        found: list[tuple[int, int | None]] = [(pid, None) for pid in self.own_processes(kind, at_ns)]
        for one in self.instances:
            if self.by_id(one.instance.instance_id, at_ns) is one:
                found += [(pid, one.instance.instance_id) for pid in one.own_processes(kind, at_ns)]
        return found

    def utilization_pct(self, at_ns: int) -> int | Failure:
        """nvmlDeviceGetUtilizationRates().gpu; a failing memory track fails the call as well."""
        if self.is_divided(at_ns):
            return Failure()
        memory = self.track("memory_utilization").mean(at_ns, self._period_ns, PERCENT)
        gpu = self.track("utilization").mean(at_ns, self._period_ns, PERCENT)
        return gpu if isinstance(gpu, Failure) else memory if isinstance(memory, Failure) else gpu

    def utilization_samples(self, at_ns: int, since_us: int) -> list[tuple[int, int]] | Failure:
        """The ring's samples that are newer than a time stamp (µs, from script start): (time stamp, percent)."""
        track = self.track("utilization")
        now = Failure() if self.is_divided(at_ns) else track.value(at_ns)
        if isinstance(now, Failure):
            return now
        last = at_ns * self._samples_hz // SECOND_NS
        found = []
        for number in range(max(1, last - SAMPLES_RING + 1), last + 1):
            begin_ns, end_ns = ((number - back) * SECOND_NS // self._samples_hz for back in (1, 0))
            steps_ms = sum(step_ms for step_at_ms, step_ms in self._steps_ms if step_at_ms * MS_NS <= end_ns)
            stamp_us = end_ns // 1_000 + steps_ms * 1_000
            percent = track.mean(end_ns, end_ns - begin_ns, PERCENT)
            if stamp_us > since_us and not isinstance(percent, Failure):
                found.append((stamp_us, percent))
        return found

    def gpm_count(self, name: str, first_ns: int, second_ns: int) -> float | Failure:
        """One of GPM's counters: "elapsed" cycles, active ones of "sm" and "tensor", bytes over a link."""
        kind = self.gpu.counters
        metric = {"elapsed": "sm"}.get(name, f"{name}_bytes" if name in LINKS else name)
        if kind == COUNTERS_ABSENT or metric not in self._tracks:
            return Failure()
        first_ns, second_ns = self._refreshed(first_ns), self._refreshed(second_ns)
        now = self._tracks[metric].value(second_ns)
        if isinstance(now, Failure):
            return now
        start = self._counted(name, metric, first_ns) if kind == COUNTERS_BETWEEN_SAMPLES else 0
        return float(self._counted(name, metric, second_ns) - start)

    def _counted(self, name: str, metric: str, at_ns: int) -> int:
        since_ns, before, track = -UPTIME_NS, 0, self._tracks[metric]
        reset_ms = self.gpu.counters_reset_ms
        if reset_ms is not None and reset_ms * MS_NS <= at_ns:
            since_ns, before = reset_ms * MS_NS, track.integral(reset_ms * MS_NS)
        if name == "elapsed":
            return (at_ns - since_ns) * 198 // 100
        grown = track.integral(at_ns) - before
        return grown // SECOND_NS if name in LINKS else grown * 198 // 100 // 1_000_000

    def energy_mj(self, at_ns: int) -> int | Failure:
        """The board's odometer."""
        power = self.track("power_mw")
        now = power.value(at_ns)
        if isinstance(now, Failure):
            return now
        refresh_ms = self.gpu.energy_refresh_ms
        at_ns -= 0 if refresh_ms is None else at_ns % (refresh_ms * MS_NS)
        base_mj, since = self.gpu.energy_base_mj, 0
        for reset_ms, reset_mj in self.gpu.energy_resets:
            if reset_ms * MS_NS <= at_ns:
                base_mj, since = reset_mj, power.integral(reset_ms * MS_NS)
        return base_mj + (power.integral(at_ns) - since) * self.gpu.energy_rate_ppm // FULL // SECOND_NS

    def throttled_ns(self, track: str, at_ns: int) -> int | Failure:
        """A counter of time with clocks held down."""
        now = self.track(track).value(at_ns)
        if isinstance(now, Failure):
            return now
        since_ns = max((ms * MS_NS for ms in self.gpu.throttle_resets_ms if ms * MS_NS <= at_ns), default=0)
        return (self.track(track).integral(at_ns) - self.track(track).integral(since_ns)) // FULL

    def outage(self, function: str, at_ns: int) -> int | None:
        """The code that an outage makes a call answer now, or None; handles are mostly still given out."""
        for outage in self.gpu.outages:
            if function == WAIT:
                continue  # what has happened is still handed out
            if function == HANDLE and not outage.handle_fails:
                continue
            if outage.from_ms * MS_NS <= at_ns and (outage.to_ms is None or at_ns < outage.to_ms * MS_NS):
                return outage.code
        return None


class Calls:
    """The rules' effect on each call, and the time calls take. `now_ns` is script time."""

    def __init__(self, script: Script) -> None:
        self.now_ns = 0
        self._rules = script.rules
        self._seen = [0] * len(script.rules)

    def enter(self, function: str, answers: WorkerAnswers | None) -> int | None:
        """Make a call: time passes by its latency. Returns the error's code, or None if the call gets through."""
        code = self._apply(function, answers)
        board = answers.board if isinstance(answers, InstanceAnswers) else answers
        if code is None and isinstance(board, GpuAnswers):
            code = board.outage(function, self.now_ns)
        return code

    def field_error(self, field: int, answers: GpuAnswers) -> int | None:
        """The scripted error of one entry of nvmlDeviceGetFieldValues."""
        for rule in self._rules:
            if rule.field is None or rule.field[0] != field:
                continue
            if self._matches(rule, "nvmlDeviceGetFieldValues", answers):
                return rule.field[1]
        return None

    def _matches(self, rule: Rule, function: str, answers: WorkerAnswers | None) -> bool:
        if rule.function not in ("*", function):
            return False
        ordinal = None if answers is None else answers.ordinal
        if rule.instance is not None and ordinal != (None if rule.instance == BOARD else rule.instance):
            return False
        if rule.gpu is not None and (answers is None or answers.index != rule.gpu):
            return False
        return rule.from_ms * MS_NS <= self.now_ns and (rule.to_ms is None or self.now_ns < rule.to_ms * MS_NS)

    def _apply(self, function: str, answers: WorkerAnswers | None) -> int | None:
        code: int | None = None
        latency_ms = 0
        for index, rule in enumerate(self._rules):
            if rule.field is not None or not self._matches(rule, function, answers):
                continue
            if rule.latency_ms is not None:
                latency_ms += rule.latency_ms
                continue
            failure = rule.error
            if rule.fail is not None:
                number, of, failure = rule.fail
                self._seen[index] += 1
                if (self._seen[index] - 1) % of != number:
                    continue
            code = failure if code is None else code
        self.now_ns += latency_ms * MS_NS
        return code
