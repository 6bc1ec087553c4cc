# SPDX-License-Identifier: Apache-2.0
"""Recordings: their own integrals against tables by hand, and a few real ones through the agent."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.abi.recordings import Recording, Sample, folder, integrate, load
from tests.abi.replay import misfits_of, replay, table
from tests.abi.road import differences, reported_ms
from tests.abi.script import Constant, Failure

pytestmark = pytest.mark.abi


def sample(at_ms: int, power_w: float | None, use_pct: float | None = None) -> Sample:
    power_mw = None if power_w is None else round(power_w * 1_000)
    return Sample(at_ms, power_mw, None if use_pct is None else round(use_pct * 10_000), None)


def recording(*samples: Sample) -> Recording:
    use = samples[0].utilization_ppm is not None
    return Recording(
        name="made-up", source="test", hardware="H100", label="other", has_utilization=use, series={0: list(samples)}
    )


def test_a_sample_holds_until_the_next_and_the_last_only_ends() -> None:
    own = integrate([sample(0, 100, 0), sample(1_500, 300, 40), sample(4_000, 900, 100)], 4_000)
    assert own.energy_mj == 1.5 * 100_000 + 2.5 * 300_000
    assert own.active_ns == 2_500 * 400_000
    # seconds of 0, 20, 40 and 40 %
    assert (own.busy_ms, own.sampled_busy_ms) == (3_000, 2_500)


def test_a_second_is_busy_above_five_whole_percent_of_its_mean() -> None:
    own = integrate(
        [sample(0, 1, 100), sample(50, 1, 0), sample(1_000, 1, 100), sample(1_055, 1, 0), sample(2_000, 1, 0)], 2_000
    )
    # 5.0 % is not above; 5.5 % reads 6 %
    assert own.busy_ms == 1_000


def test_a_sample_without_a_reading_counts_on_neither_side() -> None:
    samples = [sample(0, 100), sample(1_000, None), sample(3_000, 100), sample(4_000, 100)]
    own = integrate(samples, 4_000)
    assert (own.energy_mj, own.power_known_ms) == (200_000, 2_000)
    (gpu,) = recording(*samples).script().gpus
    assert [signal for _, signal in gpu.tracks["power_mw"]] == [Constant(100_000), Failure(999), Constant(100_000)]
    assert [signal for _, signal in gpu.tracks["utilization"]] == [Failure(3)]


def test_a_made_up_recording_fits_and_a_wrong_one_is_called_out(library: Path, tmp_path: Path) -> None:
    samples = [sample(second * 1_000 + 250, 200 + second, 10 * (second % 4)) for second in range(40)]
    shifted = [Sample(s.at_ms - 250, s.power_mw, s.utilization_ppm, None) for s in samples]
    outcome = replay(recording(*shifted), library, tmp_path / "made-up")
    assert outcome.misfits == ()
    assert outcome.states_ms == {"busy": 28_000, "held": 10_000}
    assert "**Misfits: none.**" in table([outcome])
    reported = reported_ms(tmp_path / "made-up" / "state", tmp_path / "again")
    assert reported == {"busy": 28_000, "held": 10_000, "dark": 262_000}
    assert list(differences(reported, Counter({"busy": 28_000, "held": 10_000}))) == []
    assert len(list(differences(reported, Counter({"busy": 27_999, "held": 10_001})))) == 2
    moved = Counter({"busy": 29_000, "held": 9_000})
    for wrong in (replace(outcome, energy_mj=outcome.energy_mj + 2), replace(outcome, states_ms=moved)):
        assert len(list(misfits_of(wrong, 1))) == 1
    powerless = [Sample(s.at_ms, s.power_mw, None, None) for s in shifted]
    outcome = replay(recording(*powerless), library, tmp_path / "powerless")
    assert outcome.misfits == ()
    assert outcome.states_ms == {"unmeasured": 38_000}


@pytest.mark.parametrize(
    "name",
    ["gwinf_falcon-7b_2024-03-29_11-16-49", "smi_nanogpt_corun", "mlpi_nvidia-h100pcie_bert-99p9_offline_ranging"],
)
def test_a_real_recording_fits_its_own_integrals(library: Path, tmp_path: Path, name: str) -> None:
    place = folder()
    if place is None:
        pytest.skip("there are no recordings: set GPULEDGER_TRACES")
    (found,) = load(place, name)
    assert replay(found, library, tmp_path / "real").misfits == ()
