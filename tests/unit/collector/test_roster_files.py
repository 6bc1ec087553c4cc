# SPDX-License-Identifier: Apache-2.0
"""Roster files: what they mean, and where they are wrong."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger_collector.roster import Entry, WindowKind
from gpuledger_collector.roster_files import DeclaredWindow, load_roster

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "roster.md"
UUID = "GPU-3b1f7a52-98c4-4d07-a3a1-0c4d6c8f2e11"
GPU = '[[gpu]]\nuuid = "GPU-1"\nnode = "n1"\nfrom = 2026-11-02\n'


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


FIRST = Entry(
    gpu=UUID,
    serial="1654923012345",
    node="node-001",
    site="fra1",
    cluster="train",
    pool="h100",
    from_ms=ms("2026-09-01"),
)
SECOND = Entry(
    gpu="serial:1654923067890",
    serial="1654923067890",
    node="node-002",
    site="fra1",
    from_ms=ms("2026-09-01"),
    to_ms=ms("2026-11-15T12:00"),
)


def test_the_documents_toml_example_means_what_it_says(tmp_path: Path) -> None:
    declared = load_roster(write(tmp_path / "roster.toml", example("toml")))
    assert declared.entries == (replace(FIRST, model="NVIDIA H100 80GB HBM3"), SECOND)
    assert declared.windows == (
        DeclaredWindow(
            kind=WindowKind.MAINTENANCE,
            node="node-001",
            start_ms=ms("2026-12-01T06:00"),
            end_ms=ms("2026-12-01T18:00"),
        ),
    )


def test_the_documents_csv_example_means_what_it_says(tmp_path: Path) -> None:
    assert load_roster(write(tmp_path / "roster.csv", example("csv"))).entries == (FIRST,)


def test_a_toml_file_may_take_its_gpus_from_a_csv_file_beside_it(tmp_path: Path) -> None:
    csv_file = write(tmp_path / "gpus.csv", example("csv"))
    path = write(tmp_path / "roster.toml", 'gpus_csv = "gpus.csv"\n')
    declared = load_roster(path)
    assert declared.entries == (FIRST,)
    assert declared.files == (path, csv_file)


def test_a_window_may_mean_one_gpu_by_uuid_or_serial_and_only_while_it_is_at_a_node(tmp_path: Path) -> None:
    text = 'uuid = "GPU-1"\nserial = "S"\nnode = "n1"\nfrom = 2026-11-02\n'
    span = "from = 2026-11-02\nto = 2026-11-03\n"
    for gpu in ("GPU-1", "S"):
        given = f'[[gpu]]\n{text}[[window]]\nkind = "standby"\nnode = "n1"\ngpu = "{gpu}"\n{span}'
        (window,) = load_roster(write(tmp_path / "r.toml", given)).windows
        assert (window.gpu, window.node) == ("GPU-1", "n1")


def test_a_time_may_carry_an_offset(tmp_path: Path) -> None:
    text = "uuid,node,from\nGPU-1,n1,2026-11-02T08:00:00+01:00\n"
    assert load_roster(write(tmp_path / "r.csv", text)).entries[0].from_ms == ms("2026-11-02T07:00")


def test_a_file_with_windows_only_leaves_the_gpus_to_discovery(tmp_path: Path) -> None:
    text = '[[window]]\nkind = "standby"\nnode = "any"\nfrom = 2026-11-02\nto = 2026-11-03\n'
    declared = load_roster(write(tmp_path / "roster.toml", text))
    assert (declared.entries, len(declared.windows)) == ((), 1)


def test_a_csv_file_may_begin_with_a_byte_order_mark_and_have_comments_and_empty_lines(tmp_path: Path) -> None:
    text = "\ufeff# fleet\n\nnode,uuid,from\nn1,GPU-1,2026-11-02\n,,\n# end\n"
    assert load_roster(write(tmp_path / "r.csv", text)).entries == (
        Entry(gpu="GPU-1", node="n1", from_ms=ms("2026-11-02")),
    )


def test_an_entry_by_serial_is_the_gpu_whose_uuid_another_entry_gives(tmp_path: Path) -> None:
    text = "uuid,serial,node,from,to\nGPU-1,S1,n1,2026-11-02,2026-11-03\n,S1,n2,2026-11-03,\n"
    assert [(entry.gpu, entry.node) for entry in load_roster(write(tmp_path / "r.csv", text)).entries] == [
        ("GPU-1", "n1"),
        ("GPU-1", "n2"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GPU + 'sit = "x"\n', "5: sit: unknown key; legal keys: uuid, serial, node"),
        (GPU + GPU.replace("2026-11-02", '"soon"'), "8: from: 'soon' is not a date or time like"),
        (GPU + "to = 2026-11-01\n", "5: to: 2026-11-01 is not after from, 2026-11-02"),
        (GPU + "to = 2026-11-02T00:00:00Z\n", "5: to: .* is not after from"),
        (GPU + "to = 12:00:00\n", "5: to: .* is not a date or time"),
        (GPU + "to = 2200-01-01\n", "5: to: .* is not between 2010 and 2100"),
        (GPU + 'site = ""\n', "5: site: '' is not a text of 1 to 256"),
        (GPU + "serial = 5\n", "5: serial: 5 is not a text"),
        (GPU + "\n\n" + GPU.replace("-02", "-05"), r"10: from: GPU-1 is then still in service at n1 \(r.toml:1\)"),
        ('# first\n[[gpu]]\nnode = "n1"\nfrom = 2026-11-02\n', "2: uuid: neither uuid nor serial is given"),
        ('[[gpu]]\nuuid = "GPU-1"\nfrom = 2026-11-02\n', "1: node: is missing"),
        ('[[gpu]]\nuuid = "GPU-1"\nnode = "n1"\n', "1: from: is missing"),
        (GPU + 'serial = "S"\n' + GPU.replace("GPU-1", "GPU-2") + 'serial = "S"\n', "10: serial: S is that of GPU-1"),
        (
            GPU.replace("from", "to = 2026-11-03\nfrom")
            + 'serial = "S"\n'
            + GPU.replace("-02", "-04")
            + 'serial = "T"\n',
            "8: uuid: GPU-1 has serial S, too",
        ),
        ("\n[gpu]\nuuid = 1\n", r"2: gpu: write each as a table \[\[gpu\]\]"),
        (GPU + "\n[general]\nx = 1\n", "6: general: unknown key; legal keys: gpu, gpus_csv, window"),
        ("gpus_csv = 5\n", "1: gpus_csv: 5 is not a path"),
        (GPU + '[[window]]\nkind = "nap"\n', "6: kind: 'nap' is not one of standby, maintenance"),
        (GPU + '[[window]]\nkind = "standby"\n', "5: node: give node, gpu or both"),
        (GPU + '[[window]]\nkind = "standby"\nnode = "n2"\n', "7: node: n2 has no GPU in this roster"),
        (GPU + '[[window]]\nkind = "standby"\ngpu = "x"\n', "7: gpu: x is neither the UUID nor the serial"),
        (GPU + '[[window]]\nkind = "standby"\nnode = "n1"\nfrom = 2026-11-02\n', "5: to: is missing"),
        (
            GPU + '[[window]]\nkind = "standby"\nnode = "n1"\nfrom = 2026-11-02\nto = 2026-11-02\n',
            "9: to: .* is not after from",
        ),
        (GPU + '[[window]]\nkind = "standby"\nwhy = "x"\n', "7: why: unknown key; legal keys: kind, node"),
    ],
    ids=range(24),
)
def test_what_is_wrong_in_a_toml_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"r\.toml:{said}"):
        load_roster(write(tmp_path / "r.toml", text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uuid,nod,from\n", ":1: nod: unknown column; legal columns: uuid, serial, node"),
        ("uuid,uuid\n", ":1: uuid: stands twice in the header"),
        ("uuid,node,from\nGPU-1,n1,2026-11-02,x\n", ":2: 4 cells, and the header has 3"),
        ("uuid,node,from\n\nGPU-1,n1,yesterday\n", ":3: from: 'yesterday' is not a date"),
        ('uuid,node,from\nGPU-1,"n1,2026-11-02\n', ":.*: not valid CSV: unexpected end of data"),
        ("uuid,node,from\n", ": lists no GPU"),
        (
            "uuid,node,from,to\nG,n,2026-11-02,\nG,n,2026-11-03,\n",
            r":3: from: G is then still in service at n \(r.csv:2\)",
        ),
        ("uuid,node,from\n,n,2026-11-02\n", ":2: uuid: neither uuid nor serial"),
    ],
    ids=range(8),
)
def test_what_is_wrong_in_a_csv_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"r\.csv{said}"):
        load_roster(write(tmp_path / "r.csv", text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.toml: cannot be read: No such file"):
        load_roster(tmp_path / "no.toml")
    with pytest.raises(ConfigurationError, match=r"no\.csv: cannot be read: No such file"):
        load_roster(tmp_path / "no.csv")
    with pytest.raises(ConfigurationError, match=r"no\.csv: cannot be read: No such file"):
        load_roster(write(tmp_path / "r.toml", 'gpus_csv = "no.csv"\n'))
    with pytest.raises(ConfigurationError, match=r"r\.toml: lists no GPU and no window"):
        load_roster(write(tmp_path / "r.toml", ""))
    with pytest.raises(ConfigurationError, match=r"r\.toml: not valid TOML: .*line 1"):
        load_roster(write(tmp_path / "r.toml", "gpu = x\n"))
    (tmp_path / "latin.csv").write_bytes(b"uuid,node\nGPU-1,k\xf6ln\n")
    with pytest.raises(ConfigurationError, match=r"latin\.csv: not UTF-8 text \(byte 17\)"):
        load_roster(tmp_path / "latin.csv")
