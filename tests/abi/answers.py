# SPDX-License-Identifier: Apache-2.0
"""What the scripted library answers at a moment: the same rules as library/*.c, written a second time.

The library's tests hold the two against each other; the oracle reads from here. Times are nanoseconds since script
start; integrals are exact integers (value × ns).
"""

from __future__ import annotations

from bisect import bisect_right

from tests.abi.script import (
    COUNTERS_ABSENT,
    COUNTERS_BETWEEN_SAMPLES,
    FULL,
    Constant,
    Failure,
    Gpu,
    Rule,
    Script,
    Signal,
    Wave,
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


class GpuAnswers:
    """One GPU's answers."""

    def __init__(self, script: Script, index: int) -> None:
        self.index = index
        self.gpu: Gpu = script.gpus[index]
        self._period_ns = script.utilization_period_ms * MS_NS
        self._samples_hz = script.samples_hz
        self._gpm_step_ns = script.gpm_step_ms * MS_NS
        self._steps_ms = script.steps_ms
        self._tracks = {name: Track(spans) for name, spans in self.gpu.tracks.items()}

    def track(self, name: str) -> Track:
        """The quantity's track, scripted or not."""
        if name not in self._tracks:
            self._tracks[name] = Track([(0, Constant(DEFAULTS.get(name, 0)))])
        return self._tracks[name]

    def utilization_pct(self, at_ns: int) -> int | Failure:
        """nvmlDeviceGetUtilizationRates().gpu; a failing memory track fails the call as well."""
        memory = self.track("memory_utilization").mean(at_ns, self._period_ns, PERCENT)
        gpu = self.track("utilization").mean(at_ns, self._period_ns, PERCENT)
        return gpu if isinstance(gpu, Failure) else memory if isinstance(memory, Failure) else gpu

    def gpm(self, metric: str, first_ns: int, second_ns: int) -> float | Failure | None:
        """One GPM metric between two samples, in percent or MiB/s; None is NaN. As in the library, in doubles."""
        if metric == "graphics" and metric not in self._tracks:
            metric = "utilization"
        if metric not in self._tracks:
            return Failure()
        track = self._tracks[metric]
        if self._gpm_step_ns > 0:
            first_ns, second_ns = (at_ns - at_ns % self._gpm_step_ns for at_ns in (first_ns, second_ns))
        now = track.value(second_ns)
        if isinstance(now, Failure):
            return now
        if second_ns - first_ns < GPM_REFRESH_NS or not track.is_whole(first_ns, second_ns):
            return None
        scale = 1 / MIB if metric.removesuffix("_bytes") in LINKS else 1e-4
        return float(track.integral(second_ns) - track.integral(first_ns)) / float(second_ns - first_ns) * scale

    def gpm_count(self, name: str, first_ns: int, second_ns: int) -> float | Failure:
        """One of GPM's counters: "elapsed" cycles, active ones of "sm" and "tensor", bytes over a link."""
        kind = self.gpu.counters
        metric = {"elapsed": "sm"}.get(name, f"{name}_bytes" if name in LINKS else name)
        if kind == COUNTERS_ABSENT or metric not in self._tracks:
            return Failure()
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

    def utilization_samples(self, at_ns: int, since_us: int) -> list[tuple[int, int]] | Failure:
        """The ring's samples that are newer than a time stamp (µs, from script start): (time stamp, percent)."""
        track = self.track("utilization")
        now = track.value(at_ns)
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

    def processes(self, kind: str, at_ns: int) -> list[int]:
        """The pids one list shows."""
        return [
            process.pid
            for process in self.gpu.processes
            if process.kind == kind
            and process.from_ms * MS_NS <= at_ns
            and (process.to_ms is None or at_ns < process.to_ms * MS_NS)
        ]

    def outage(self, function: str, at_ns: int) -> int | None:
        """The code that an outage makes a call answer now, or None; handles are mostly still given out."""
        for outage in self.gpu.outages:
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

    def enter(self, function: str, answers: GpuAnswers | None) -> int | None:
        """Make a call: time passes by its latency. Returns the error's code, or None if the call gets through."""
        code = self._apply(function, answers)
        if code is None and answers is not None:
            code = answers.outage(function, self.now_ns)
        return code

    def field_error(self, field: int, answers: GpuAnswers) -> int | None:
        """The scripted error of one entry of nvmlDeviceGetFieldValues."""
        for rule in self._rules:
            if rule.field is None or rule.field[0] != field:
                continue
            if self._matches(rule, "nvmlDeviceGetFieldValues", answers):
                return rule.field[1]
        return None

    def _matches(self, rule: Rule, function: str, answers: GpuAnswers | None) -> bool:
        if rule.function not in ("*", function):
            return False
        if rule.gpu is not None and (answers is None or answers.index != rule.gpu):
            return False
        return rule.from_ms * MS_NS <= self.now_ns and (rule.to_ms is None or self.now_ns < rule.to_ms * MS_NS)

    def _apply(self, function: str, answers: GpuAnswers | None) -> int | None:
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
