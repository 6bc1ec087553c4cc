# SPDX-License-Identifier: Apache-2.0
"""One node and its GPUs, from what its agent exposes."""

from __future__ import annotations

from dashboards.source.dashboard import Dashboard, Variable
from dashboards.source.panels import (
    AMBER,
    GREEN,
    GREY,
    RED,
    Look,
    Query,
    Row,
    by_name,
    heat,
    lines,
    or_none,
    stat,
)
from dashboards.source.panels import timeline as state_timeline
from dashboards.source.tables import Column, table
from gpuledger.states import OBSERVED
from gpuledger_collector.palette import LOOKS

AGENT = 'instance=~"$instance"'
GPU = f'{AGENT}, uuid=~"$gpu"'
OBSERVED_IDLE = "free|reserved|held"
_CODES = {state: code for code, state in enumerate(OBSERVED, start=1)}
STATE_LOOK = Look(
    words={code: (state.value, LOOKS[state].color) for state, code in _CODES.items()},
    steps=((None, GREY), *((float(code), LOOKS[state].color) for state, code in _CODES.items())),
    decimals=0,
    missing="not covered",
)


def named(expr: str) -> str:
    """Return the series with the GPU's index, which the other families do not carry."""
    return f"{expr} * on (job, instance, uuid) group_left (index) gpuledger_gpu_info{{{GPU}}}"


def rate(family: str, chosen: str = "") -> str:
    """Return how fast a counter of the chosen GPUs grows, each series on its own."""
    return f"rate({family}{{{GPU}{chosen}}}[$__rate_interval])"


def _state_code() -> str:
    """Return the code of the state of each GPU or instance; a series' value is its part of the GPU: divide by it."""
    codes = " or ".join(
        f'{code} * gpuledger_gpu_current_state{{{GPU}, state="{state.value}"}}' for state, code in _CODES.items()
    )
    whole = f"sum by (job, instance, uuid, instance_id) (gpuledger_gpu_current_state{{{GPU}}})"
    return f"sum by (job, instance, uuid, instance_id) ({codes}) / {whole}"


_WATTS = Look(unit="watt", decimals=0)
_BYTES = Look(unit="bytes", decimals=1)
_RATE = Look(unit="percentunit", decimals=0, low=0, high=1)
_GPU_LEGEND = "GPU {{index}}"

_NODE = Row(
    title="Node",
    panels=(
        stat(
            "Data",
            "SIMULATED where the agent of the node plays a scenario instead of asking a driver.",
            Query(
                expr=f'max(gpuledger_agent_info{{{AGENT}, simulated="true"}}) '
                f"or 0 * max(gpuledger_agent_info{{{AGENT}}})"
            ),
            look=Look(
                words={0: ("measured", GREEN), 1: ("SIMULATED", RED)},
                steps=((None, GREEN), (1, RED)),
                missing="no agent",
            ),
            width=3,
        ),
        stat(
            "GPUs",
            "What the driver lists now. Fewer than yesterday: one fell off the bus or was given to a virtual machine.",
            Query(expr=f"count(gpuledger_gpu_info{{{GPU}}})"),
            look=Look(decimals=0, missing="none listed"),
            width=3,
        ),
        stat(
            "Idle, of covered time",
            "Free, reserved and held time over the time that the agent covered. Dark time is not here: it is the "
            "collector's to tell (Fleet).",
            Query(
                expr=f'sum(increase(gpuledger_gpu_state_seconds_total{{{GPU}, state=~"{OBSERVED_IDLE}"}}[$__range])) '
                f"/ (sum(increase(gpuledger_gpu_state_seconds_total{{{GPU}}}[$__range])) > 0)"
            ),
            look=Look(unit="percentunit", decimals=1, steps=((None, GREEN), (0.3, AMBER), (0.6, RED))),
            width=3,
        ),
        stat(
            "Energy while idle",
            "Energy of the boards in free, reserved and held time over the chosen time.",
            Query(
                expr=f'sum(increase(gpuledger_gpu_energy_joules_total{{{GPU}, state=~"{OBSERVED_IDLE}"}}[$__range]))'
            ),
            look=Look(unit="joule", decimals=1, missing="no energy counter"),
            width=3,
        ),
        stat(
            "Last tick",
            "Age of the agent's last look at the driver. Over a minute: the agent is stuck or gone (runbook).",
            Query(expr=f"time() - max(gpuledger_agent_tick_timestamp_seconds{{{AGENT}}})"),
            look=Look(unit="s", decimals=0, steps=((None, GREEN), (60, AMBER), (300, RED)), missing="no tick yet"),
            width=3,
        ),
        stat(
            "Xid errors",
            "Errors that the driver reported over the chosen time, fatal and applications' own. See the table below.",
            Query(expr=f"sum(increase(gpuledger_gpu_xid_errors_total{{{GPU}}}[$__range])) or vector(0)"),
            look=Look(decimals=0, steps=((None, GREEN), (1, AMBER))),
            width=3,
        ),
        stat(
            "Hang suspicion",
            "Time in which a source claimed high activity of idle SMs at idle power. Never busy: look at the process.",
            Query(expr=f"sum(increase(gpuledger_gpu_hang_suspicion_seconds_total{{{GPU}}}[$__range]))"),
            look=Look(unit="s", decimals=0, steps=((None, GREEN), (60, RED))),
            width=3,
        ),
        stat(
            "Driver",
            "1 while the agent is attached to the driver; released when somebody asked it to let go for a reset.",
            Query(expr=f"min(gpuledger_agent_driver_attached{{{AGENT}}})"),
            look=Look(
                words={0: ("not attached", RED), 1: ("attached", GREEN)},
                steps=((None, RED), (1, GREEN)),
                missing="no agent",
            ),
            width=3,
        ),
    ),
)

_STATES = Row(
    title="States",
    panels=(
        state_timeline(
            "State of each GPU",
            "What the last tick before each moment saw. Gaps are time without coverage. A divided GPU has a row for "
            "each instance, and one for what no instance has.",
            Query(expr=named(_state_code()), legend="GPU {{index}} {{instance_id}}"),
            look=STATE_LOOK,
            height=9,
        ),
        lines(
            "States, share of covered time",
            "All chosen GPUs together, weighted by slices.",
            Query(
                expr=f"sum by (state) ({rate('gpuledger_gpu_state_seconds_total')}) / ignoring (state) group_left () "
                f"(sum({rate('gpuledger_gpu_state_seconds_total')}) > 0)",
                legend="{{state}}",
            ),
            look=_RATE,
            stack="normal",
            is_state=True,
        ),
        heat(
            "Busy and held time by activity",
            "How hard the engines worked while somebody held the GPUs: a dark band at the bottom is held and idle.",
            Query(
                expr=f"sum by (le) (increase(gpuledger_gpu_activity_seconds_bucket{{{GPU}}}[$__rate_interval]))",
                legend="{{le}}",
                is_heatmap=True,
            ),
            unit="percentunit",
        ),
    ),
)

_ENGINES = Row(
    title="Engines, power, memory",
    panels=(
        lines(
            "Engine activity",
            "Share of the time in which the graphics and compute engine was active, per GPU. Near 100 % beside idle "
            "power is a hang, not work.",
            Query(
                expr=named(f"sum by (job, instance, uuid) ({rate('gpuledger_gpu_active_seconds_total')})"),
                legend=_GPU_LEGEND,
            ),
            look=_RATE,
        ),
        lines(
            "SM, tensor and DRAM activity",
            "Means over the chosen GPUs. Tensor near zero in training points at data loading or a wrong precision.",
            *(
                Query(
                    expr=f"sum({rate(f'gpuledger_gpu_{engine}_active_seconds_total')}) / "
                    f"count(count by (uuid) (gpuledger_gpu_{engine}_active_seconds_total{{{GPU}}}))",
                    legend=words,
                )
                for engine, words in (("sm", "SM"), ("tensor", "tensor"), ("dram", "DRAM"))
            ),
            look=_RATE,
        ),
        lines(
            "Power against limit and idle floors",
            "Each board's power; dashed: its limit, and the idle power that was learnt with and without a process. "
            "Power at the floor beside a busy engine is a suspicion.",
            Query(expr=named(f"gpuledger_gpu_power_watts{{{GPU}}}"), legend=_GPU_LEGEND),
            Query(expr=f"max(gpuledger_gpu_power_limit_watts{{{GPU}}})", legend="limit"),
            Query(
                expr=f"avg by (kind) (gpuledger_gpu_idle_floor_watts{{{GPU}}})",
                legend="floor, {{kind}}",
            ),
            look=_WATTS,
            overrides=(
                by_name("limit", custom__lineStyle={"dash": [6, 6], "fill": "dash"}),
                by_name("floor, bare", custom__lineStyle={"dash": [6, 6], "fill": "dash"}),
                by_name("floor, parked", custom__lineStyle={"dash": [6, 6], "fill": "dash"}),
            ),
        ),
        lines(
            "Memory in use",
            "Without what the driver reserves. Memory held beside no activity is what holders keep from others.",
            Query(
                expr=named(f"sum by (job, instance, uuid) (gpuledger_gpu_memory_used_bytes{{{GPU}}})"),
                legend=_GPU_LEGEND,
            ),
            look=_BYTES,
        ),
        lines(
            "NVLink and PCIe",
            "Bytes per second of the chosen GPUs together, by GPM.",
            *(
                Query(expr=f"sum({rate(f'gpuledger_gpu_{link}_{way}_bytes_total')})", legend=f"{words} {way}")
                for link, words in (("nvlink", "NVLink"), ("pcie", "PCIe"))
                for way in ("transmit", "receive")
            ),
            look=Look(unit="Bps", decimals=1, missing="GPM does not tell"),
        ),
        lines(
            "Clocks held down",
            "Share of the time in which clocks were held down, by reason, mean of the chosen GPUs. Power is normal at "
            "full load; thermal is a cooling fault.",
            Query(
                expr=or_none(
                    f"sum by (reason) ({rate('gpuledger_gpu_throttled_seconds_total')}) "
                    f"/ ignoring (reason) group_left () count(gpuledger_gpu_info{{{GPU}}})",
                    "reason",
                    f"gpuledger_gpu_info{{{GPU}}}",
                ),
                legend="{{reason}}",
            ),
            look=_RATE,
        ),
    ),
)

_FAULTS = Row(
    title="GPUs and their health",
    panels=(
        table(
            "GPUs in detail",
            "Every GPU that the driver lists, with its share of idle time over the chosen time.",
            Query(expr=f"gpuledger_gpu_info{{{GPU}}}", is_table=True),
            Query(
                expr="sum by (job, instance, uuid) (increase(gpuledger_gpu_state_seconds_total"
                f'{{{GPU}, state=~"{OBSERVED_IDLE}"}}[$__range])) / (sum by (job, instance, uuid) '
                f"(increase(gpuledger_gpu_state_seconds_total{{{GPU}}}[$__range])) > 0)",
                is_table=True,
            ),
            Query(expr=f"sum by (job, instance, uuid) (gpuledger_gpu_memory_used_bytes{{{GPU}}})", is_table=True),
            Query(expr=f"gpuledger_gpu_power_watts{{{GPU}}}", is_table=True),
            Query(
                expr=f'sum by (job, instance, uuid) (gpuledger_gpu_ecc_errors_total{{{GPU}, kind="uncorrected"}})',
                is_table=True,
            ),
            Query(expr=f"sum by (job, instance, uuid) (gpuledger_gpu_remapped_rows{{{GPU}}})", is_table=True),
            columns=(
                Column(source="index", title="GPU", width=60),
                Column(source="uuid", title="UUID"),
                Column(source="model", title="Model"),
                Column(source="serial", title="Serial"),
                Column(source="pci_bus_id", title="PCI"),
                Column(source="B", title="Idle", look=Look(unit="percentunit", decimals=1)),
                Column(source="C", title="Memory in use", look=_BYTES),
                Column(source="D", title="Power", look=_WATTS),
                Column(source="E", title="ECC uncorrected", look=Look(decimals=0)),
                Column(source="F", title="Remapped rows", look=Look(decimals=0)),
            ),
            height=9,
        ),
        table(
            "Xid errors by number",
            "By number, since the agent watches the GPU. Which are fatal stands in the list of Xid errors in the docs.",
            Query(
                expr=or_none(
                    f"sum by (uuid, xid) (gpuledger_gpu_xid_errors_total{{{GPU}}})",
                    "xid",
                    f"gpuledger_gpu_info{{{GPU}}}",
                ),
                is_table=True,
            ),
            columns=(
                Column(source="uuid", title="UUID"),
                Column(source="xid", title="Xid", width=80),
                Column(source="A", title="Count", look=Look(decimals=0), width=80),
            ),
            width=12,
            height=7,
            sort="Count",
        ),
        table(
            "Recommended action",
            "What the driver recommends for each GPU; anything but none makes the GPU down.",
            Query(expr=f"max by (uuid, action) (gpuledger_gpu_recovery_action{{{GPU}}})", is_table=True),
            columns=(
                Column(source="uuid", title="UUID"),
                Column(source="action", title="Action"),
            ),
            width=12,
            height=7,
        ),
    ),
)

NODE = Dashboard(
    uid="gpuledger-node",
    title="gpuledger / Node and GPU",
    description="What one node's agent sees of its GPUs: states, engines, power, memory, health.",
    variables=(
        Variable(name="site", label="Site", metric="gpuledger_agent_info", of="site"),
        Variable(name="node", label="Node", metric='gpuledger_agent_info{site=~"$site"}', of="node", is_many=False),
        Variable(
            name="instance",
            label="Instance",
            metric='gpuledger_agent_info{node=~"$node"}',
            of="instance",
            is_many=False,
            is_hidden=True,
        ),
        Variable(name="gpu", label="GPU", metric='gpuledger_gpu_info{instance=~"$instance"}', of="uuid"),
    ),
    rows=(_NODE, _STATES, _ENGINES, _FAULTS),
    since="now-6h",
    refresh="30s",
)
