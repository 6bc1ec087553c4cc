# SPDX-License-Identifier: Apache-2.0
"""The pure parts of the measurement on real hardware: schedule, duty, table. They need no GPU."""

from dataclasses import replace

import pytest

from gpuledger.states import State
from tests.gpu.plan import PHASES, is_behind, seconds_of
from tests.gpu.table import BEGIN, END, Row, Sums, Truth, faults, put_between_marks, render

BEFORE = Sums(
    edge_s=1000.0, state_s={"free": 30.0}, uncovered_s=1.0, active_s=None, energy_j=500.0, memory_used_bytes=0
)
AFTER = Sums(
    edge_s=1100.0,
    state_s={"free": 30.0, "busy": 99.0, "held": 1.0},
    uncovered_s=1.0,
    active_s=50.0,
    energy_j=40_500.0,
    memory_used_bytes=2 << 30,
)
HALF = Row(phase=PHASES[2], truth=Truth(duty=0.5, power_w=410.0), before=BEFORE, after=AFTER)


@pytest.mark.parametrize("total_s", [160, 600, 601, 3599])
def test_the_phases_last_exactly_the_whole_time(total_s: int) -> None:
    assert sum(seconds_of(PHASES, total_s)) == total_s


def test_a_time_too_short_for_a_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="60 s leave a phase less than 10 s"):
        seconds_of(PHASES, 60)


def test_the_phases_are_several_duty_cycles_then_idle_then_memory_held() -> None:
    assert [phase.duty for phase in PHASES] == [0.05, 0.25, 0.5, 0.95, None, 0.0]
    assert PHASES[-1].memory_mib > 0
    assert PHASES[-1].states == {State.HELD}


@pytest.mark.parametrize("duty", [0.0, 0.05, 0.25, 0.5, 0.95, 1.0])
def test_asking_after_each_kernel_keeps_the_duty_cycle(duty: float) -> None:
    kernel_ns, pause_ns = 1_300_000, 500_000
    on_ns = elapsed_ns = 0
    while elapsed_ns < 10_000_000_000:
        step_ns = kernel_ns if is_behind(on_ns, elapsed_ns, duty) else pause_ns
        on_ns += step_ns if step_ns == kernel_ns else 0
        elapsed_ns += step_ns
    assert on_ns / elapsed_ns == pytest.approx(duty, abs=0.001)


def test_a_phase_measured_as_it_was_has_no_fault() -> None:
    assert faults(HALF) == []


def test_a_second_that_is_in_no_state_is_a_fault() -> None:
    after = replace(AFTER, state_s={"free": 30.0, "busy": 99.0})
    assert faults(replace(HALF, after=after)) == ["load at 50 %: states and uncovered sum to 99.000 s, not 100.000 s"]


def test_time_in_another_state_is_a_fault() -> None:
    after = replace(AFTER, state_s={"free": 130.0})
    assert faults(replace(HALF, after=after)) == ["load at 50 %: only 0.0 of 100.0 s were busy"]


def test_activity_far_from_the_known_duty_is_a_fault() -> None:
    fault = "load at 50 %: engines were measured active 100.0%, and were on 50.0%"
    assert faults(replace(HALF, after=replace(AFTER, active_s=100.0))) == [fault]


def test_activity_that_was_never_known_is_a_fault_and_not_zero() -> None:
    idle = replace(HALF, phase=PHASES[4], truth=Truth(duty=None, power_w=None))
    after = replace(AFTER, state_s={"free": 130.0}, active_s=None)
    assert faults(replace(idle, after=after)) == ["idle: activity was never known"]


def test_energy_that_contradicts_polled_power_is_a_fault() -> None:
    fault = "load at 50 %: 400 W by energy, 600 W by polled power"
    assert faults(replace(HALF, truth=Truth(duty=0.5, power_w=600.0))) == [fault]


def test_the_table_has_what_is_known_beside_what_was_measured() -> None:
    line = "| load at 50 % | 50.0% | 50.0% | busy | busy 99.0 s, held 1.0 s | 400 W | 410 W | 2.0 GiB |"
    text = render([HALF], {"Measured": "2026-11-20", "GPU": "NVIDIA H100"})
    assert text.startswith("Measured 2026-11-20, GPU NVIDIA H100.\n")
    assert line in text.splitlines()
    assert text.endswith("Nothing was found wrong.\n")


def test_the_table_says_what_is_wrong_and_leaves_open_what_is_unknown() -> None:
    after = replace(AFTER, active_s=None, energy_j=None, memory_used_bytes=None)
    text = render([replace(HALF, after=after)], {})
    assert "| load at 50 % | 50.0% | - | busy | busy 99.0 s, held 1.0 s | - | 410 W | - |" in text.splitlines()
    assert "- WRONG: load at 50 %: activity was never known" in text.splitlines()


def test_the_measured_section_replaces_what_stands_between_the_marks() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert put_between_marks(document, "new") == f"before\n{BEGIN}\n\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("document", ["", f"{BEGIN} only", f"{END} then {BEGIN}"])
def test_a_document_without_the_marks_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="not in the document"):
        put_between_marks(document, "new")
