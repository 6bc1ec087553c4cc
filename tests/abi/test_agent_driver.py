# SPDX-License-Identifier: Apache-2.0
"""The driver's life before the scripted library, in real processes: hung, released, exchanged, taken away."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gpuledger.sealing import load_or_create_key
from tests.abi.oracle import Run, expect
from tests.abi.readings import account
from tests.abi.script import LIB_RM_VERSION_MISMATCH, UNKNOWN, Script
from tests.abi.stage import WALL_START_MS, Stage
from tests.fakes.agents import sealed, spans

pytestmark = pytest.mark.abi
AGENT = ["-m", "tests.abi.run_agent"]
RATES = "nvmlDeviceGetUtilizationRates"
FIELDS = "nvmlDeviceGetFieldValues"
PATIENCE_S = 60


def node(count: int) -> Script:
    script = Script()
    for _ in range(count):
        script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0)
    return script


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S} s in vain for {what}"
        time.sleep(0.02)


def check_chain(state_dir: Path) -> list[tuple[int, int]]:
    """Signatures, sequence and hashes hold, and no time stands twice."""
    return spans(sealed(state_dir, load_or_create_key(state_dir / "key.pem").public_bytes))


class Living:
    """An agent in real time before the scripted library."""

    def __init__(self, stage: Stage, state_dir: Path, log: Path) -> None:
        self.stage = stage
        self.state_dir = state_dir
        self._log = log
        with log.open("ab") as stream:
            command = [sys.executable, *AGENT, str(state_dir), "--interval", "0.5"]
            self.process = subprocess.Popen(command, env=stage.env, stdout=stream, stderr=stream)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def says(self, event: str, times: int = 1) -> None:
        def is_so() -> bool:
            assert self.process.poll() is None, self.log
            return self.log.count(f"event={event}") >= times

        wait_for(f"{event} in:\n{self.log}", is_so)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpuledger", "agent", *arguments, "--state-dir", str(self.state_dir)]
        return subprocess.run(command, env=self.stage.env, capture_output=True, text=True, check=False)

    def open_files(self) -> set[str]:
        files = set()
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                files.add(str(path.readlink()))
            except FileNotFoundError:
                continue
        return files

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.log


@pytest.fixture
def live(stage: Callable[..., Stage], tmp_path: Path) -> Iterator[Callable[[Script], Living]]:
    lives: list[Living] = []

    def begin(script: Script) -> Living:
        put = stage(script, virtual=False, trace=True)
        device = tmp_path / "nvidiactl"
        device.touch()
        put.env["GPULEDGER_ABI_DEVICE"] = str(device)
        put.env["GPULEDGER_ABI_START_NS"] = str(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        lives.append(Living(put, tmp_path / "state", tmp_path / "log"))
        return lives[-1]

    yield begin
    for one in lives:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


# ---------------------------------------------------------------------------------------------- hung


def test_a_hung_gpu_is_not_covered_while_all_others_are_metered(stage: Callable[..., Stage], tmp_path: Path) -> None:
    script = node(4).rule(RATES, gpu=1, from_ms=100_500, to_ms=250_500, hang=True).polled()
    put = stage(script, duration_ms=600_000)
    put.run([*AGENT, str(tmp_path / "state")])
    found = account(tmp_path / "state")
    first, hung, *behind = (found[gpu.uuid][WALL_START_MS] for gpu in script.gpus)
    assert first.states_ms == {"free": 300_000}
    for cell in behind:
        assert cell.uncovered_ms == {"calls_failed": 1_000, "first_tick": 1_000}
        assert cell.states_ms == {"free": 298_000}
    # In virtual time the rest of the cell may be over before the thread that hung was waited for again.
    assert hung.uncovered_ms["calls_failed"] >= 149_000
    assert hung.states_ms["free"] >= 99_000
    assert sum((hung.states_ms + hung.uncovered_ms).values()) == 300_000
    later = found[script.gpus[1].uuid][WALL_START_MS + 300_000]
    assert later.states_ms["free"] > 0, "it came back"
    check_chain(tmp_path / "state")


def test_sigterm_with_a_hung_call_seals_and_ends_at_once(live: Callable[[Script], Living]) -> None:
    agent = live(node(2).rule(FIELDS, gpu=1, from_ms=6_000, hang=True))
    agent.says("gpu_hung")
    began_s = time.monotonic()
    agent.end()
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert "event=agent_stopped" in agent.log
    assert "event=left_at_once stuck_calls=1" in agent.log
    assert len(check_chain(agent.state_dir)) >= 1


def test_a_library_whose_start_hangs_does_not_keep_the_agent_from_ending(live: Callable[[Script], Living]) -> None:
    agent = live(node(1).rule("nvmlInitWithFlags", hang=True))
    agent.says("agent_started")
    agent.end()
    assert "Traceback" not in agent.log


# ---------------------------------------------------------------------------------------------- released


def test_a_released_driver_has_no_file_open_and_is_asked_nothing(live: Callable[[Script], Living]) -> None:
    agent = live(node(2))
    agent.says("driver_attached")
    device = agent.stage.env["GPULEDGER_ABI_DEVICE"]
    assert device in agent.open_files()
    done = agent.command("release", "--for", "60")
    assert (done.returncode, "has let go of the driver, for 60 s" in done.stdout) == (0, True), done.stderr
    assert device not in agent.open_files()
    calls = len(agent.stage.trace())
    time.sleep(2)
    assert len(agent.stage.trace()) == calls
    done = agent.command("resume")
    assert (done.returncode, "has taken the driver up again" in done.stdout) == (0, True), done.stderr
    assert device in agent.open_files()
    agent.end()
    check_chain(agent.state_dir)


def test_a_release_that_a_hung_call_holds_up_says_so_with_its_own_code(live: Callable[[Script], Living]) -> None:
    agent = live(node(2).rule(FIELDS, gpu=1, from_ms=2_000, to_ms=9_000, hang=True))
    agent.says("gpu_hung")
    done = agent.command("release", "--until-resumed")
    if done.returncode == 0:  # it came back in time
        assert "has let go" in done.stdout
    else:
        assert (done.returncode, "a call to the driver hangs" in done.stderr) == (3, True)
    agent.says("driver_released")
    agent.end()


def test_a_release_in_virtual_time_is_uncovered_released_to_the_millisecond(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    put = stage(node(1), duration_ms=600_000, trace=True)
    (tmp_path / "state").mkdir(mode=0o700)
    request = f'{{"name": "r", "asked_ms": {WALL_START_MS}, "for_ms": 200000}}'
    (tmp_path / "state" / "release").write_text(request, encoding="ascii")
    put.run([*AGENT, str(tmp_path / "state")])
    begin_ns = min(begin_ns for begin_ns, *_ in put.trace())
    assert begin_ns >= 200_000 * 1_000_000, "nothing is asked before"
    assert not (tmp_path / "state" / "release").exists()


# ---------------------------------------------------------------------------------------------- another version


def test_a_driver_that_was_exchanged_is_read_by_a_new_program_in_the_same_process(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script = node(1)
    script.modules.append((100_500, "580.65.06"))
    put = stage(script, duration_ms=400_000)
    done = put.run([*AGENT, str(tmp_path / "state")])
    assert done.stderr.count("event=agent_started") == 2
    assert "event=driver_changed" in done.stderr
    assert "event=driver_attached version=570.124.06" in done.stderr
    assert "event=driver_attached version=580.65.06" in done.stderr
    found = account(tmp_path / "state")[script.gpus[0].uuid]
    total: Counter[str] = Counter()
    for cell in found.values():
        total += cell.states_ms + cell.uncovered_ms
    # The tick that met it, and the first of the new session.
    assert (total["free"], total["library"]) == (100_000 + 298_000, 1_000)
    found_spans = check_chain(tmp_path / "state")
    assert all(end_ms == start_ms for (_, end_ms), (start_ms, _) in pairwise(found_spans)), "no gap in the chain"


def test_a_mismatch_that_lasts_starts_the_program_again_once_and_then_backs_off(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script = node(2).rule("*", from_ms=20_500, to_ms=25_500, error=LIB_RM_VERSION_MISMATCH)
    put = stage(script, duration_ms=200_000)
    done = put.run([*AGENT, str(tmp_path / "state")])
    assert done.stderr.count("event=agent_started") == 2
    runs = [Run(start_ms=0, end_ms=21_001), Run(start_ms=21_000, end_ms=200_000)]
    assert account(tmp_path / "state") == expect(script, runs, wall_start_ms=WALL_START_MS)
    check_chain(tmp_path / "state")


def test_a_program_that_starts_again_in_real_life_keeps_its_process_and_its_lock(
    live: Callable[[Script], Living],
) -> None:
    script = node(1)
    script.modules.append((12_000, "580.65.06"))
    agent = live(script)
    agent.says("driver_attached", times=2)
    assert agent.process.poll() is None
    done = agent.command("release", "--for", "60")
    assert done.returncode == 0, done.stderr
    assert f"(pid {agent.process.pid})" in done.stdout
    agent.end()
    check_chain(agent.state_dir)


# ---------------------------------------------------------------------------------------------- taken away


def test_a_container_that_lost_its_devices_ends_with_a_code_of_its_own(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script = node(2).rule("*", from_ms=50_500, error=UNKNOWN)
    put = stage(script, duration_ms=600_000)
    done = put.run([*AGENT, str(tmp_path / "state")], codes=(4,))
    assert "event=devices_gone" in done.stderr
    truth = expect(script, [Run(start_ms=0, end_ms=600_000)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
    (cell,) = truth[script.gpus[0].uuid].values()
    assert cell.uncovered_ms == {"calls_failed": 61_000}


def test_a_lost_gpu_that_comes_back_has_a_new_handle_and_counters_that_fell(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0).lose(60_500, 90_500, handle_fails=True)
    gpu.energy_resets.append((75_000, 0))
    gpu.throttle_resets_ms.append(75_000)
    gpu.set("throttle_power", 500_000)
    gpu.set("ecc_corrected", 90).set("ecc_corrected", 0, 75_000).set("ecc_corrected", 4, 150_000)
    gpu.xids += [(60_400, 79), (120_000, 31)]
    put = stage(script, duration_ms=301_000)
    put.run([*AGENT, str(tmp_path / "state")])
    truth = expect(script, [Run(start_ms=0, end_ms=301_000)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
    cell = truth[gpu.uuid][WALL_START_MS]
    assert (cell.xids, cell.ecc) == ({79: 1, 31: 1}, {"corrected": 4})
    assert (cell.states_ms["down"], cell.energy_epochs) == (30_000, 1)
    key = load_or_create_key(tmp_path / "state" / "key.pem")
    (reading,) = sealed(tmp_path / "state", key.public_bytes)
    # Half of the time, but for the reads about the loss: at 50 s, not at 60 s, and again from 91 s on.
    assert reading.gpus[0].throttle_ms == {"sw_power_cap": (60_000 + 300_000 - 91_000) // 2}
