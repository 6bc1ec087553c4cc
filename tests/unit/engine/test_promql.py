# SPDX-License-Identifier: Apache-2.0
"""Queries are what they were meant to be; engines accept them in tests/integration."""

from gpuledger_collector.engine import chunks, counter_chunks, promql
from gpuledger_collector.engine.profile_files import load_profile
from tests.fakes.gauges import uuid_of

DCGM = load_profile("dcgm")


def test_one_value_is_matched_as_it_is_and_several_as_one_expression() -> None:
    matchers = {"UUID": ("GPU-1", "GPU-2"), "job": ("dcgm",)}
    assert promql.selector("M", matchers) == 'M{UUID=~"GPU-1|GPU-2",job="dcgm"}'
    assert promql.selector("M", {}) == "M{}"


def test_no_value_can_end_its_string_or_mean_more_than_itself() -> None:
    assert promql.selector("M", {"job": ('a"}b\\\n',)}) == 'M{job="a\\"}b\\\\\\n"}'
    assert promql.selector("M", {"job": ("a.b", "c|d*")}) == 'M{job=~"a\\\\.b|c\\\\|d\\\\*"}'


def test_a_sample_stands_as_long_as_it_may_and_no_longer() -> None:
    assert promql.newest("M", {"job": ("x",)}, 60_000) == 'last_over_time(M{job="x"}[59999ms])'


def test_the_second_gauge_is_asked_for_only_where_it_decides() -> None:
    one = 'last_over_time(DCGM_FI_PROF_GR_ENGINE_ACTIVE{job="x"}[59999ms])'
    other = 'last_over_time(DCGM_FI_DEV_GPU_UTIL{job="x"}[59999ms])'
    query = promql.second_opinion(DCGM.activities[0], DCGM.activities[1], {"job": ("x",)}, 60_000)
    assert query == f"({other} unless ({one} >= 0 <= 1)) or (({other} >= 50) and ({one} < 0.01))"


def test_no_query_is_longer_than_victoriametrics_takes() -> None:
    def matchers(count: int) -> dict[str, list[str]]:
        return {"UUID": [uuid_of(number) for number in range(count)], "job": ["a-job-with-a-name"], "cluster": ["eu-1"]}

    longest = promql.second_opinion(DCGM.activities[0], DCGM.activities[1], matchers(chunks.GPUS_AT_ONCE_MAX), 60_000)
    assert len(longest) < 16_384
    counters = promql.count("gpuledger_gpu_state_seconds_total", matchers(counter_chunks.GPUS_AT_ONCE_MAX), 3_600_000)
    assert len(counters) < 16_384


def test_what_stands_once_on_a_board_is_asked_for_once_a_gpu() -> None:
    query = promql.largest_at_edges("E", "UUID", {"job": ("x",)}, 60_000)
    assert query == 'max by (UUID) (last_over_time(E{job="x"}[59999ms]))'
    query = promql.owners_in_cells("P", "uuid", ("username",), {"job": ("x",)}, 300_000)
    assert query == 'max by (uuid, username) (last_over_time(P{job="x"}[299999ms]))'


def test_the_pace_is_found_from_the_series_with_most_samples() -> None:
    assert promql.fullest("M", {"job": ("x",)}, 1000, 5) == 'topk(5, count_over_time(M{job="x"}[1000ms]))'
    assert promql.samples("M", {"job": ("x",)}, 1000) == 'M{job="x"}[1000ms]'
