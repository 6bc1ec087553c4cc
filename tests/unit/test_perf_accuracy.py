# SPDX-License-Identifier: Apache-2.0
"""The pure part of the benchmark of accuracy: truth, what programs say, comparison, page."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from tests.abi.script import FULL, Failure, Gpu, Script, Wave
from tests.abi.truth import CellTruth
from tests.perf import cases
from tests.perf.accuracy_table import (
    OURS,
    Line,
    Measured,
    Said,
    Unseen,
    Virtual,
    best_peer,
    faults,
    render,
    worst,
)
from tests.perf.cases import CASES, LOST_FROM_MS, LOST_TO_MS, UNSEEN, active_s, idle_s, lost_script, script_of
from tests.perf.figures import (
    Statement,
    Window,
    bounds_ms,
    gpucm_busy,
    of_counter,
    of_gua,
    of_readings,
    of_share,
    sealed_window,
)

LENGTH_MS = 650_000
WINDOW = Window(from_ms=Fraction(0), to_ms=Fraction(100_000))


def gpu(**tracks: object) -> Gpu:
    found = Script().add_gpu()
    for name, signal in tracks.items():
        found.set(name, signal)  # type: ignore[arg-type]
    return found


# --------------------------------------------------------------------------------------------------- truth


def test_the_truth_of_a_square_wave_is_its_duty_over_whole_periods_and_exact_between_them() -> None:
    wave = gpu(utilization=Wave(period_ms=300, on_ms=15))
    assert active_s(wave, Fraction(0), Fraction(300_000)) == 15
    assert active_s(wave, Fraction(0), Fraction(10)) == Fraction(10, 1_000)
    assert active_s(wave, Fraction(7), Fraction(310)) == Fraction(8 + 10, 1_000)
    assert active_s(wave, Fraction(15), Fraction(300)) == 0
    assert idle_s(wave, Fraction(0), Fraction(300_000)) == 285


def test_the_truth_of_a_spin_wait_is_what_the_engines_did_not_what_utilisation_says() -> None:
    spinning = gpu(utilization=FULL, graphics=Wave(period_ms=1_000, on_ms=200))
    assert active_s(spinning, Fraction(0), Fraction(60_000)) == 12


def test_every_case_has_a_truth_of_its_own_without_an_unreadable_stretch() -> None:
    script = script_of(LENGTH_MS, list(range(1, len(CASES) + 1)))
    shares = []
    for played in script.gpus:
        share = active_s(played, Fraction(0), Fraction(LENGTH_MS)) * 1_000 / LENGTH_MS
        assert 0 <= share <= 1
        shares.append(share)
        assert not any(isinstance(signal, Failure) for spans in played.tracks.values() for _, signal in spans)
        assert played.tracks["sm"] == played.tracks.get("graphics", played.tracks["utilization"])
    by_name = dict(zip((case.name for case in CASES), shares, strict=True))
    assert by_name["always on"] == 1
    assert by_name["held, never on"] == 0
    assert by_name["on, but for two and a half minutes"] == 1 - Fraction(LOST_TO_MS - LOST_FROM_MS, LENGTH_MS)
    assert abs(by_name["square wave, 2 s, 25 % on"] - Fraction(1, 4)) < Fraction(1, 400)
    assert abs(by_name["spin-wait, engines on 20 %"] - Fraction(1, 5)) < Fraction(1, 400)
    assert Fraction(40, 100) < by_name["load that decays, 95 % to 0"] < Fraction(55, 100)
    assert Fraction(5, 100) < by_name["60 bursts, 0.05 to 3 s"] < Fraction(20, 100)
    assert len(by_name) == len(CASES)


def test_the_same_script_is_written_every_time() -> None:
    pids = list(range(1, len(CASES) + 1))
    assert script_of(LENGTH_MS, pids).text() == script_of(LENGTH_MS, pids).text()


def test_a_burst_never_reaches_into_the_next_one() -> None:
    played = gpu()
    cases._bursts(played, LENGTH_MS)
    moments = [from_ms for from_ms, _ in played.tracks["utilization"]]
    assert moments == sorted(set(moments))
    assert len(moments) == 1 + 2 * cases.BURSTS


def test_a_lost_gpu_does_nothing_while_it_is_lost() -> None:
    script = lost_script(LENGTH_MS, [1, 2])
    for played in script.gpus:
        assert active_s(played, Fraction(LOST_FROM_MS), Fraction(LOST_TO_MS)) == 0
        assert active_s(played, Fraction(LOST_TO_MS), Fraction(LOST_TO_MS + 100_000)) == 25
    assert [played.outages[0].handle_fails for played in script.gpus] == [False, True]


def test_the_cases_of_lost_minutes_are_cases() -> None:
    assert set(UNSEEN) <= set(CASES)


# --------------------------------------------------------------------------------------------------- statements


def cell(**of: object) -> CellTruth:
    return replace(CellTruth(), **of)  # type: ignore[arg-type]


def test_readings_say_what_is_known_to_be_idle_and_add_what_is_unknown_for_the_high_bound() -> None:
    found = of_readings(
        {
            0: cell(active_ns=20 * 10**9, active_known_ms=60_000),
            300_000: cell(active_ns=5 * 10**9, active_known_ms=10_000),
        },
        WINDOW,
    )
    assert [found.low_s, found.high_s] == [45, 75]


def test_nothing_known_is_anything_from_nothing_to_all() -> None:
    found = of_readings({}, WINDOW)
    assert [found.low_s, found.high_s] == [0, 100]


def test_states_have_bounds_of_their_own() -> None:
    cells = {0: cell(states_ms=Counter(busy=50_000, held=20_000, unmeasured=5_000, down=10_000))}
    assert list(bounds_ms(cells, WINDOW, frozenset({"busy"}))) == [50_000, 70_000]
    assert list(bounds_ms(cells, WINDOW, frozenset({"held", "free"}))) == [20_000, 40_000]


def test_the_window_of_readings_is_from_the_first_start_to_the_last_end() -> None:
    spans = [(5_000, 9_000), (1_000, 4_000)]
    assert sealed_window(spans, Fraction(1, 2)) == Window(from_ms=Fraction(1999, 2), to_ms=Fraction(17_999, 2))
    with pytest.raises(ValueError, match="nothing was sealed"):
        sealed_window([], Fraction(0))


def test_a_counter_is_read_over_the_ticks_of_its_first_and_last_scrape() -> None:
    ticks = [(Fraction(10), Fraction(9)), (Fraction(25), Fraction(24)), (Fraction(40), Fraction(39))]
    active = [(Fraction(25), Fraction(100)), (Fraction(40), Fraction(103))]
    found = of_counter(active, ticks, Fraction(4_000))
    assert found is not None
    assert found.window == Window(from_ms=Fraction(20_000), to_ms=Fraction(35_000))
    assert found.low_s == found.high_s == 12
    assert of_counter(active[:1], ticks, Fraction(0)) is None


def test_a_share_is_of_the_whole_window() -> None:
    assert of_share(WINDOW, Fraction(1, 4)).low_s == 75


def test_gpu_usage_audit_counts_the_samples_that_its_report_calls_active() -> None:
    found = of_gua([100, 9, 10, 0], WINDOW)
    assert found is not None
    assert found.low_s == 50
    assert of_gua([], WINDOW) is None


def test_gpucm_is_the_mean_of_what_it_published() -> None:
    lines = [
        '{"int": {"gpu_id": 0, "gpu_util": 100}, "normal": {"hostname": "n"}}',
        '{"int": {"gpu_id": 1, "gpu_util": 0}}',
        '{"int": {"gpu_id": 0, "gpu_util": 50}}',
        '{"int": {"max_gpu_util": 100}, "double": {"avg_gpu_util": 75.0}}',
    ]
    assert gpucm_busy(lines) == {0: Fraction(3, 4), 1: Fraction(0)}


# --------------------------------------------------------------------------------------------------- comparison


def say(low_s: float, truth_s: float, high_s: float | None = None) -> Said:
    low = Fraction(low_s)
    high = low if high_s is None else Fraction(high_s)
    return Said(statement=Statement(window=WINDOW, low_s=low, high_s=high), truth_s=Fraction(truth_s))


def line(ours_s: float, *peers_s: float) -> Line:
    named = {f"peer {number}": say(peer_s, 50) for number, peer_s in enumerate(peers_s)}
    return Line(name="a wave", said={OURS: say(ours_s, 50), **named}, states_off_ms=2_000)


ZERO = (Fraction(0), Fraction(0), Fraction(0))
GOOD = Measured(
    seconds=100.0,
    lines=[line(50.25, 20, 60), line(49.9, 50, 80)],
    unseen=[Unseen(name="killed", ours=say(40, 50, 60), peer=None, busy_s=ZERO, idle_s=ZERO)],
    virtual=Virtual(error=Fraction(0), cells=40, different=0),
    peers=["peer 0", "peer 1"],
    also=[],
    missing={"peer 2": "it wants another Python"},
    machine="a machine",
)


def test_an_error_is_the_distance_of_the_worse_bound_from_the_truth() -> None:
    assert say(50, 50).error == 0
    assert say(49, 50, 52).error == Fraction(2, 100)
    assert say(47, 50, 52).error == Fraction(3, 100)


def test_the_truth_is_inside_the_bounds_or_so_far_outside() -> None:
    assert say(40, 40, 60).outside_s == say(40, 60, 60).outside_s == say(40, 50, 60).outside_s == 0
    assert say(41, 40, 60).outside_s == 1
    assert say(40, 63, 60).outside_s == 3


def test_the_best_peer_is_the_one_whose_worst_case_is_the_least_bad() -> None:
    assert worst(GOOD.lines, OURS) == Fraction(25, 10_000)
    assert worst(GOOD.lines, "peer 2") is None
    assert best_peer(GOOD) == ("peer 0", Fraction(30, 100))
    assert best_peer(replace(GOOD, peers=["peer 2"])) is None


def test_where_a_peer_means_something_else_by_idle_is_not_its_worst_case() -> None:
    apart = replace(line(50, 0, 60), is_apart=True)
    lines = [*GOOD.lines, apart]
    assert best_peer(replace(GOOD, lines=lines)) == ("peer 0", Fraction(30, 100))
    wrong = replace(line(52, 0, 60), is_apart=True)
    assert len(faults(replace(GOOD, lines=[*GOOD.lines, wrong]))) == 1


def test_a_good_run_has_no_fault() -> None:
    assert faults(GOOD) == []


def test_an_error_above_its_bound_is_a_fault() -> None:
    assert faults(replace(GOOD, lines=[line(50.5, 0)], peers=["peer 0"])) == []
    found = faults(replace(GOOD, lines=[line(50.51, 0)], peers=["peer 0"]))
    assert found == ["a wave: gpuledger is wrong by 0.51 % of the time"]


def test_a_peer_that_comes_close_is_a_fault() -> None:
    assert faults(replace(GOOD, lines=[line(50.25, 45)])) == []
    found = faults(replace(GOOD, lines=[line(50.25, 46)]))
    assert found == ["in the worst case peer 0 is wrong by only 16.0 times as much"]


def test_a_case_of_which_the_agent_says_nothing_is_a_fault() -> None:
    silent = Line(name="a wave", said={OURS: None, "peer 0": say(0, 50)}, states_off_ms=0)
    assert faults(replace(GOOD, lines=[silent])) == ["a wave: gpuledger says nothing"]
    assert "by Prometheus" in faults(replace(GOOD, also=["by Prometheus"]))[0]


def test_a_truth_outside_the_bounds_of_lost_minutes_is_a_fault() -> None:
    just = replace(GOOD.unseen[0], ours=say(40, 60.125, 60))
    assert faults(replace(GOOD, unseen=[just])) == []
    outside = replace(GOOD.unseen[0], ours=say(40, 60.25, 60))
    assert faults(replace(GOOD, unseen=[outside])) == ["killed: the truth is 0.250 s outside the bounds"]


def test_states_of_lost_minutes_have_to_hold_the_oracles_time() -> None:
    inside = (Fraction(10), Fraction(20), Fraction(22))
    assert faults(replace(GOOD, unseen=[replace(GOOD.unseen[0], busy_s=inside)])) == []
    outside = (Fraction(10), Fraction(20), Fraction(23))
    found = faults(replace(GOOD, unseen=[replace(GOOD.unseen[0], idle_s=outside)]))
    assert found == ["killed: 23.0 s idle are outside 10.00 – 20.00 s"]


def test_a_difference_from_the_oracle_in_virtual_time_is_a_fault() -> None:
    virtual = Virtual(error=Fraction(0), cells=40, different=1)
    assert faults(replace(GOOD, virtual=virtual)) == ["in virtual time 1 cells differ from the oracle's"]


def test_a_run_without_any_peer_proves_nothing() -> None:
    assert faults(replace(GOOD, peers=[])) == ["no peer ran"]


def test_the_page_has_errors_with_their_sign_and_peers_that_did_not_run() -> None:
    text = render(GOOD)
    lines = text.splitlines()
    assert "| a wave | 50.0 % | +0.250 % | -30.0 % | +10.0 % | 2.0 s |" in lines
    assert "| **largest error**, spin-wait apart |  | **0.25 %** | **30.0 %** | **30.0 %** |  |" in lines
    assert "- **peer 2** did not run: it wants another Python." in lines
    assert "Every bound is kept." in lines
    assert "The best peer's largest error (peer 0) is 120 times the agent's." in lines
    killed = "| killed | 50.00 | 40.00 – 60.00 | yes | 0.0 in 0.00 – 0.00 | 0.0 in 0.00 – 0.00 | - |"
    assert killed in lines


def test_the_page_says_what_is_wrong() -> None:
    text = render(replace(GOOD, lines=[line(52, 0)]))
    assert "- WRONG: a wave: gpuledger is wrong by 2.00 % of the time" in text.splitlines()
    assert "Every bound is kept." not in text
