# SPDX-License-Identifier: Apache-2.0
"""What the documents say is so: generated ones are up to date, links lead somewhere, examples are accepted."""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

import docs
from gpuledger import metrics
from gpuledger.gpu_time import GpuTime, InstanceTime
from gpuledger.metrics import Family, Kind
from gpuledger.process_rules import load_rules
from gpuledger.reading import Reading, encode
from gpuledger.settings import read_toml, setting
from gpuledger.states import State, Uncovered
from gpuledger.workload_time import WorkloadTime
from gpuledger_agent import config as agent_config
from gpuledger_agent.allocations import leases_of
from gpuledger_agent.upload import Failure as UploadFailure
from gpuledger_collector import config as collector_config
from gpuledger_collector import declared_rules, enrolment_files, lease_files, roster_files
from gpuledger_collector.finance.files import load_prices
from gpuledger_collector.issue.plan import Plan
from gpuledger_collector.issue.plan_files import load_plan
from gpuledger_collector.poll_failures import Failure
from gpuledger_collector.receive import PushFailure
from gpuledger_collector.scheduler_files import load_schedulers
from gpuledger_collector.targets import load_groups
from gpuledger_collector.verification import Refusal

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if found[1] == language:
            yield found[2]


# --------------------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("name", sorted(docs.DOCUMENTS))
def test_the_generated_documents_are_what_the_code_says(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == docs.DOCUMENTS[name](), "run `make docs`"


def test_the_check_names_a_stale_file_and_a_missing_one_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0
    (tmp_path / "docs/metrics.md").write_text("stale", encoding="utf-8")
    (tmp_path / "docs/commands.md").unlink()
    capsys.readouterr()
    assert docs.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"docs/{name}.md is not what the code says: run `make docs`" for name in ("commands", "metrics")]
    assert (tmp_path / "docs/metrics.md").read_text(encoding="utf-8") == "stale"


def test_an_unknown_argument_of_the_generator_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--chekc"]) == 2
    assert "usage:" in capsys.readouterr().err


def test_a_new_family_changes_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(
        name="gpuledger_new_seconds_total",
        kind=Kind.COUNTER,
        labels=("uuid", "kind"),
        help="New | time.",
        absent="there is none",
        bound="GPUs",
    )
    monkeypatch.setattr(docs, "AGENT", (*metrics.AGENT, family))
    row = "| `gpuledger_new_seconds_total` | counter | `uuid`, `kind` | New \\| time. | there is none | GPUs |"
    assert row in docs.metrics().splitlines()


def test_every_family_is_documented() -> None:
    text = docs.metrics()
    assert [name for name in metrics.FAMILIES if f"| `{name}` |" not in text] == []


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    level: str = setting("log.level", "How much.", "info", choices=("info", "debug"))
    days: float = setting("days", "How long.", 14.0, low=1, high=400)
    size: int = setting("size", "How large.", 5, low=1)
    most: int = setting("most", "Not more.", 5, high=9)
    is_on: bool = setting("is_on", "Whether.", False)
    file: Path | None = setting("file", "Which.", None)
    users: tuple[str, ...] = setting("users", "Who.", ("root",))


def test_every_kind_of_setting_shows_its_default_and_what_is_legal() -> None:
    assert list(docs.settings_rows(Everything, "GPULEDGER_X")) == [
        ("`log.level`", "`GPULEDGER_X_LOG_LEVEL`", '`"info"`', "How much.", "one of `info`, `debug`"),
        ("`days`", "`GPULEDGER_X_DAYS`", "`14.0`", "How long.", "a number from 1 to 400"),
        ("`size`", "`GPULEDGER_X_SIZE`", "`5`", "How large.", "an integer, at least 1"),
        ("`most`", "`GPULEDGER_X_MOST`", "`5`", "Not more.", "an integer, at most 9"),
        ("`is_on`", "`GPULEDGER_X_IS_ON`", "`false`", "Whether.", "true or false"),
        ("`file`", "`GPULEDGER_X_FILE`", "not set", "Which.", "a path"),
        ("`users`", "`GPULEDGER_X_USERS`", '`["root"]`', "Who.", "a list of texts"),
    ]


def test_every_command_is_documented_with_its_exit_codes() -> None:
    found = list(docs.walk())
    names = {command.name for command in found}
    assert {"gpuledger", "gpuledger agent run", "gpuledger report", "gpuledger collector"} <= names
    text = docs.commands()
    assert [name for name in names if f"\n## {name}\n" not in text] == []
    texts = {command.name: " ".join(command.help.split()) for command in found if command.is_leaf}
    assert [name for name, text in texts.items() if "Exit codes:" not in text] == []


# ------------------------------------------------------------------------------------------------ pages by hand


def anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as GitHub makes them."""
    texts = [re.sub(r"[`*]", "", title).strip().lower() for title in _HEADING.findall(page.read_text(encoding="utf-8"))]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    broken = []
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def load_agent(file: Path) -> None:
    agent_config.load(file, {}, {})


def load_collector(file: Path) -> None:
    collector_config.load(file, {}, {})
    is_of_tables = len(load_groups(file)) + len(load_schedulers(file)) > 0
    assert is_of_tables or load_plan(file) != Plan()


def load_roster(file: Path) -> None:
    assert len(roster_files.load_roster(file).entries) > 0


def load_price_book(file: Path) -> None:
    assert len(load_prices(file).prices) > 0


def load_leases(file: Path) -> None:
    assert len(lease_files.load_leases(file).book.leases) > 0


def load_declared(file: Path) -> None:
    assert len(declared_rules.load_declared_rules(file)) > 0


def load_node_leases(file: Path) -> None:
    assert len(leases_of(read_toml(file))) > 0


def load_keys(file: Path) -> None:
    assert len(enrolment_files.load_enrolment(file)) > 0


def load_site_rules(file: Path) -> None:
    assert len(load_rules(file).rules) > len(load_rules().rules)


LOADERS: dict[str, Callable[[Path], None]] = {
    "agent.toml": load_agent,
    "collector.toml": load_collector,
    "leases.toml": load_leases,
    "prices.toml": load_price_book,
    "node-leases.toml": load_node_leases,
    "roster.toml": load_roster,
    "keys.toml": load_keys,
    "rules.toml": load_site_rules,
    "declared.toml": load_declared,
}


def test_every_toml_example_is_accepted_by_the_program_it_is_for(tmp_path: Path) -> None:
    seen = set()
    for page in PAGES:
        for text in blocks(page, "toml"):
            name = text.splitlines()[0].removeprefix("# ")
            assert name in LOADERS, f"{name_of(page)}: the first line of a TOML example names its file: # agent.toml"
            file = tmp_path / name
            file.write_text(text, encoding="utf-8")
            LOADERS[name](file)
            seen.add(name)
    assert seen == set(LOADERS)


def test_every_csv_example_is_accepted_as_a_roster_or_a_lease_book(tmp_path: Path) -> None:
    seen = set()
    for text in [text for page in PAGES for text in blocks(page, "csv")]:
        file = tmp_path / "example.csv"
        file.write_text(text, encoding="utf-8")
        load = load_leases if text.startswith("id,") else load_roster
        load(file)
        seen.add(load)
    assert seen == {load_leases, load_roster}


def shown_commands(page: Path) -> Iterator[str]:
    """Yield each `gpuledger ...` in a code span or at the start of an indented line, cron's times left out."""
    text = page.read_text(encoding="utf-8")
    text = _FENCE.sub("", text)
    yield from re.findall(r"`(gpuledger [^`\n]+)`", text)
    yield from re.findall(r"^    (?:[\d* ]+ )?(gpuledger .+)$", text, re.MULTILINE)


def problem_of(line: str, commands: dict[str, click.Context | None]) -> str | None:
    """Return what is wrong with a shown command: no such command, or an option that it does not have."""
    words = shlex.split(re.sub(r"[\[\]()]", " ", line), comments=True)
    name = words.pop(0)
    while words and f"{name} {words[0]}" in commands:
        name = f"{name} {words.pop(0)}"
    context = commands[name]
    if context is None:
        return None
    if isinstance(context.command, click.Group) and words and words[0].isidentifier():
        return f"{line}: {name} has no command {words[0]}"
    options = {option for parameter in context.command.params for option in parameter.opts} | {"--help", "--version"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in options]
    return f"{line}: {name} has no option {unknown[0]}" if unknown else None


def test_every_command_that_the_pages_show_exists_with_its_options() -> None:
    commands = {command.name: command.context for command in docs.walk()}
    lines = [line for page in PAGES for line in shown_commands(page)]
    assert any(line.startswith("gpuledger report weekly") for line in lines)
    problems = [problem_of(line, commands) for line in lines if not line.startswith("gpuledger_")]
    assert [problem for problem in problems if problem is not None] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("gpuledger agent rnu --config FILE", "gpuledger agent has no command rnu"),
        ("gpuledger agent run --confg FILE", "gpuledger agent run has no option --confg"),
        ("gpuledger frobnicate", "gpuledger has no command frobnicate"),
    ],
)
def test_a_command_or_option_that_does_not_exist_would_be_noticed(line: str, problem: str) -> None:
    commands = {command.name: command.context for command in docs.walk()}
    assert problem_of(line, commands) == f"{line}: {problem}"


def programs() -> str:
    files = [path for folder in ("agent", "collector") for path in sorted((ROOT / folder).rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_the_runbook_has_every_event_that_is_logged_as_a_warning_or_an_error() -> None:
    events = set(re.findall(r"(?:_log|logger)\.(?:warning|error|exception)\(\s*\"([a-z_]+)\"", programs()))
    events |= set(re.findall(r"self\._fail\(\"([a-z_]+_failed)\"", programs()))
    assert {"driver_unavailable", "seal_failed", "target_failed"} <= events
    assert sorted(events - {"finding"} - words_of("docs/runbook.md")) == []


def test_the_runbook_has_every_kind_of_finding_and_every_reason_of_a_failed_poll_or_a_refusal() -> None:
    kinds = set(re.findall(r"(?:kind=|_find\(batch, )\"([a-z_]+)\"", programs()))
    assert {"unrostered", "sequence_gap", "late_declaration"} <= kinds
    reasons = {reason.value for reason in (*Failure, *Refusal, *PushFailure, *UploadFailure)}
    reasons |= set(re.findall(r"_(?:Push|List)Error\(\s*\"([a-z_]+)\"", programs()))
    assert {"stuck", "unreadable"} <= reasons
    assert sorted((kinds | reasons | {"overlap", "equivocation"}) - words_of("docs/runbook.md")) == []


def test_the_page_on_accounting_has_every_state_and_every_reason_of_uncovered_time() -> None:
    names = {name.value for name in (*State, *Uncovered)}
    assert sorted(names - words_of("docs/accounting.md")) == []


FULL_INSTANCE = InstanceTime(
    uuid="MIG-1",
    instance=1,
    profile="1g.10gb",
    slices=1,
    state_slice_ms={State.BUSY: 1},
    uncovered_slice_ms={Uncovered.GAP: 1},
    bin_slice_ms=(0, 0, 1, 0, 0, 0, 0, 0),
    active_ns=1,
    active_known_ms=1,
    engine_ns={"sm": 1},
    engine_known_ms={"sm": 1},
    memory_total_bytes=1,
    memory_used_bytes_max=1,
)
FULL_GPU = GpuTime(
    uuid="GPU-1",
    serial="1",
    index=1,
    pci_bus_id="1",
    model="1",
    memory_total_bytes=1,
    power_limit_mw=1,
    state_slice_ms={State.BUSY: 7, State.UNMEASURED: 7},
    uncovered_slice_ms={Uncovered.GAP: 7},
    bin_slice_ms=(0, 0, 7, 0, 0, 0, 0, 0),
    active_ns=1,
    active_known_ms=1,
    activity_source="polled",
    engine_ns={"sm": 1},
    engine_known_ms={"sm": 1},
    energy_mj={"busy": 1},
    energy_start_mj=1,
    energy_end_mj=2,
    energy_epochs=1,
    memory_used_bytes_max=1,
    hang_suspicion_ms=1,
    rejected_values=1,
    link_bytes={"pcie_tx": 1},
    link_known_ms={"pcie_tx": 1},
    xids={79: 1},
    ecc_errors={"corrected": 1},
    throttle_ms={"hw_thermal": 1},
    instances=(FULL_INSTANCE,),
)
FULL_READING = Reading(
    node_id="1",
    node_name="1",
    session="1",
    sequence=1,
    boot_id="1",
    start_ms=0,
    end_ms=3,
    wall_start_ms=0,
    wall_end_ms=3,
    interval_ms=1,
    agent_version="1",
    configuration_digest="1",
    previous="1",
    checkpoint="1",
    part=(1, 2),
    simulated=True,
    workloads_digest="1",
    gpus=(FULL_GPU,),
)
"""A reading that leaves no field out."""


def test_the_page_on_readings_has_every_field_of_a_reading() -> None:
    core = json.loads(encode(FULL_READING))
    gpu = core["gpus"][0]
    assert len(core) == len(dataclasses.fields(Reading)) + 1  # the schema's number is no field
    assert len(gpu) == len(dataclasses.fields(GpuTime))
    instance = gpu["instances"][0]
    assert len(instance) == len(dataclasses.fields(InstanceTime))
    workload = {field.name for field in dataclasses.fields(WorkloadTime)} - {"state_slice_ms"}
    assert sorted((core.keys() | gpu.keys() | instance.keys() | workload) - words_of("docs/readings.md")) == []


def words_of(page: str) -> set[str]:
    """Return the words that the page has in code spans."""
    spans = re.findall(r"`([^`\n]+)`", (ROOT / page).read_text(encoding="utf-8"))
    return {word for span in spans for word in re.findall(r"[a-z_0-9]+", span)}


def test_every_decision_record_has_its_four_parts_and_a_number_of_its_own() -> None:
    records = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [path.name[:4] for path in records] == [f"{number:04d}" for number in range(1, len(records) + 1)]
    for path in records:
        text = path.read_text(encoding="utf-8")
        parts = ["**Context.**", "**Decision.**", "**Consequences.**", "**What would change our mind.**"]
        places = [text.find(part) for part in parts]
        assert -1 not in places, name_of(path)
        assert places == sorted(places), name_of(path)
        assert len(text.splitlines()) <= 40, f"{name_of(path)} is longer than a screen"
