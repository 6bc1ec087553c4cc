# SPDX-License-Identifier: Apache-2.0
"""Profiles: those that come with the program, a site's own, and what is wrong with others."""

import dataclasses
from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger.metrics import AGENT
from gpuledger_collector.engine import profile_files
from gpuledger_collector.engine.profile import ActivityKind
from gpuledger_collector.engine.profile_files import BUILT_IN, load_profile

OWN = """
exporter = "smi-exporter"
update_interval_seconds = 15
[labels]
gpu = ["uuid"]
[[activity]]
metric = "nvidia_smi_utilization_gpu_ratio"
full = 1.0
kind = "moment"
[memory]
metric = "nvidia_smi_memory_used_bytes"
unit_bytes = 1
held_above_bytes = 104857600
[energy]
metric = "nvidia_smi_energy_joules_total"
unit_mj = 1000
"""


def own(tmp_path: Path, text: str = OWN) -> Path:
    file = tmp_path / "smi.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_built_in_profiles_can_be_read_and_name_themselves() -> None:
    assert [load_profile(name).name for name in BUILT_IN] == list(BUILT_IN)


def test_every_file_beside_the_program_is_a_built_in_profile() -> None:
    folder = Path(profile_files.__file__).parent / "profiles"
    assert sorted(path.stem for path in folder.glob("*.toml")) == sorted(BUILT_IN)


def test_a_site_brings_its_own(tmp_path: Path) -> None:
    profile = load_profile("ignored", own(tmp_path))
    assert (profile.name, profile.exporter, profile.update_interval_ms) == ("smi", "smi-exporter", 15_000)
    assert profile.activities[0].kind is ActivityKind.MOMENT
    assert profile.metrics == ("nvidia_smi_utilization_gpu_ratio", "nvidia_smi_memory_used_bytes")
    assert profile.energy is not None
    assert profile.energy.unit_mj == 1000
    assert (profile.labels.node, profile.processes) == ((), None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('exporter = "smi-exporter"', ""), "exporter is missing"),
        (("update_interval_seconds = 15", "update_interval_seconds = 0"), "0 is not from 0.001 to 3600"),
        (("update_interval_seconds = 15", "update_interval_seconds = true"), "True is not a number"),
        (('gpu = ["uuid"]', "gpu = []"), "labels: gpu: [] is not a list of 1 to 16 names of labels"),
        (('gpu = ["uuid"]', 'gpu = ["a-b"]'), "labels: gpu: ['a-b'] is not a list"),
        (('gpu = ["uuid"]', 'gpu = ["uuid"]\nnod = ["x"]'), "labels: nod is not known; legal keys: cluster, gpu"),
        (('kind = "moment"', 'kind = "mode"'), "activity 1: kind: 'mode' is not one of mean, moment"),
        (("full = 1.0", "full = inf"), "activity 1: full: inf is not a number"),
        (("nvidia_smi_memory_used_bytes", "a b"), "memory: metric: 'a b' is not the name of a metric"),
        (("[[activity]]", "[activity]"), "activity is not a list of at most 2 tables; write [[activity]]"),
        (("[energy]", "[power]"), "power is not known"),
        (("[[activity]]", "[[other]]"), "other is not known"),
        (("[[activity]]", "[[activity]]\n[[activity]]\n[[activity]]"), "activity is not a list of at most 2 tables"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    assert change[0] in OWN
    file = own(tmp_path, OWN.replace(*change))
    with pytest.raises(ConfigurationError) as caught:
        load_profile("x", file)
    assert str(caught.value).startswith(f"{file}: ")
    assert sentence in str(caught.value)


def test_a_profile_has_gauges_or_counters_and_not_both(tmp_path: Path) -> None:
    gauges = OWN[OWN.index("[[activity]]") : OWN.index("[memory]")]
    with pytest.raises(ConfigurationError, match=r"give one of \[\[activity\]\] and \[counters\]"):
        load_profile("x", own(tmp_path, OWN.replace(gauges, "")))
    assert load_profile("gpuledger").activities == ()
    assert load_profile("gpuledger").metrics == ("gpuledger_gpu_info",)


def test_the_agents_profile_names_families_that_the_agent_has() -> None:
    counters = load_profile("gpuledger").counters
    assert counters is not None
    named = {getattr(counters, field.name) for field in dataclasses.fields(counters)}
    assert {name.removesuffix("_bucket") for name in named} <= {family.name for family in AGENT}


def test_a_profile_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="profile: 'dcm' is not one of dcgm, nvitop"):
        load_profile("dcm")
