# SPDX-License-Identifier: Apache-2.0
"""The `[[group]]` tables: what is read, and one clear sentence for what cannot be."""

from pathlib import Path

import pytest

from gpuledger.credentials import Credentials
from gpuledger.errors import ConfigurationError
from gpuledger_collector import targets
from gpuledger_collector.target_documents import Listed
from gpuledger_collector.targets import FileList, Target, UrlList, load_groups, load_targets, make_targets

FILE = "collector.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / FILE
    path.write_text(text, encoding="utf-8")
    return path


def test_groups_give_their_place_to_each_of_their_targets_in_order(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [[group]]
        site = "fra1"
        cluster = "train"
        pool = "h100"
        targets = ["http://Node-1:9400", "http://node-2:9400/"]
        [[group]]
        targets = ["https://[::1]:9400"]
        """,
    )
    assert load_targets(file) == (
        Target(url="http://node-1:9400", site="fra1", cluster="train", pool="h100"),
        Target(url="http://node-2:9400", site="fra1", cluster="train", pool="h100"),
        Target(url="https://[::1]:9400", site="unknown", cluster="unknown", pool="unknown"),
    )


def test_a_group_gives_its_credentials_to_each_of_its_targets(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [[group]]
        targets = ["https://node-1:9400", "https://node-2:9400"]
        basic_auth = { username = "collector", password_file = "p" }
        [group.tls_config]
        ca_file = "ca"
        cert_file = "c"
        key_file = "k"
        server_name = "agents"
        [[group]]
        targets = ["https://node-3:9400"]
        bearer_token_file = "t"
        """,
    )
    first, second, third = (target.credentials for target in load_targets(file))
    assert first == second
    assert first == Credentials(
        ca_file=Path("ca"),
        cert_file=Path("c"),
        key_file=Path("k"),
        server_name="agents",
        username="collector",
        password_file=Path("p"),
    )
    assert third == Credentials(bearer_token_file=Path("t"))


def test_a_group_may_have_lists_rules_and_a_rack_and_no_addresses_of_its_own(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [[group]]
        site = "fra1"
        rack = "r1"
        scheme = "https"
        bearer_token_file = "t"
        file_sd_configs = [{ files = ["a/*.json", "b.yml"], refresh_interval_seconds = 7 }]
        http_sd_configs = [{ url = "https://inventory/targets?x=1", tls_config = { ca_file = "ca" } }]
        relabel_configs = [{ source_labels = ["__meta_x"], target_label = "pool" }]
        """,
    )
    (group,) = load_groups(file)
    assert group.static == ()
    assert group.lists == (
        FileList(path=Path("a/*.json"), refresh_s=7.0),
        FileList(path=Path("b.yml"), refresh_s=7.0),
        UrlList(url="https://inventory/targets?x=1", credentials=Credentials(ca_file=Path("ca"))),
    )
    assert group.lists[2].name == "https://inventory/targets"
    listed = [
        Listed(address="a:1", labels={"__meta_x": "h100"}),
        Listed(address="http://b:1", labels={}),
        Listed(address="c:1", labels={"rack": "r2", "site": "ber2"}),
    ]
    targets, problems = make_targets(group, listed, "list")
    token = Credentials(bearer_token_file=Path("t"))
    assert targets == [
        Target(url="https://a:1", site="fra1", pool="h100", rack="r1", credentials=token),
        Target(url="https://c:1", site="ber2", rack="r2", credentials=token),
    ]
    assert problems == ["list: http://b:1 is not https, so what this group trusts and shows would be in the open"]


def test_rules_work_on_the_addresses_of_the_group_itself_too(tmp_path: Path) -> None:
    text = """
    [[group]]
    targets = ["https://node-1:9400", "https://node-2:9400"]
    relabel_configs = [
        { source_labels = ["__address__"], regex = "node-2:.*", action = "drop" },
        { source_labels = ["__address__"], regex = "(.*):.*", target_label = "__address__", replacement = "$1.lan:9" },
    ]
    """
    assert [target.url for target in load_targets(write(tmp_path, text))] == ["https://node-1.lan:9"]


def test_a_file_without_groups_has_no_targets(tmp_path: Path) -> None:
    assert load_targets(write(tmp_path, "")) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("group = 3", "group is not a list of tables; write [[group]]"),
        ("[group]\ntargets = []", "group is not a list of tables; write [[group]]"),
        ("[[group]]\nsite = 'a'", "group 1: targets is missing"),
        ("[[group]]\ntargets = []\n[[group]]\ntarget = []", "group 2: unknown key 'target'; legal keys: site, cluster"),
        ("[[group]]\ntargets = 'http://a:1'", "group 1: targets: 'http://a:1' is not a list of addresses"),
        ("[[group]]\nsite = ''\ntargets = []", "group 1: site: '' is not a text of 1 to 128 characters"),
        ("[[group]]\npool = 7\ntargets = []", "group 1: pool: 7 is not a text"),
        ("[[group]]\ntargets = [9400]", "group 1: targets: 9400 is not an address"),
        ("[[group]]\ntargets = ['node-1:9400']", "'node-1:9400' is not http://HOST:PORT or https://HOST:PORT"),
        ("[[group]]\ntargets = ['ftp://node-1']", "'ftp://node-1' is not http://HOST:PORT"),
        ("[[group]]\ntargets = ['http://node-1:99999']", "'http://node-1:99999' is not http://HOST:PORT"),
        ("[[group]]\ntargets = ['http://node-1:9400/metrics']", "is not http://HOST:PORT"),
        ("[[group]]\ntargets = ['http://node-1:9400?a=b']", "is not http://HOST:PORT"),
        ("[[group]]\ntargets = ['http://me:secret@node-1']", "the address of node-1 has a user name in it"),
        ("[[group]]\ntargets = ['http://a..b:1']", "'http://a..b:1' has no valid host name"),
        ("[[group]]\ntargets = ['http://a b:1']", "has a space or control character in it"),
        ("[[group]]\nscheme = 'ftp'\ntargets = []", "group 1: scheme: 'ftp' is neither http nor https"),
        ("[[group]]\nfile_sd_configs = 3", "group 1: file_sd_configs: not a list of tables"),
        ("[[group]]\nfile_sd_configs = [{}]", "group 1: file_sd_configs 1: files: None is not a list of paths"),
        ("[[group]]\nfile_sd_configs = [{file = 'a'}]", "file_sd_configs 1: unknown key 'file'; legal keys: files,"),
        ("[[group]]\nfile_sd_configs = [{files = ['a.txt']}]", "files: 'a.txt' does not end in .json, .yml or .yaml"),
        (
            "[[group]]\nfile_sd_configs = [{files = ['*/a.json']}]",
            "'*/a.json' does not end in .json, .yml or .yaml, or",
        ),
        (
            "[[group]]\nfile_sd_configs = [{files = ['a.json'], refresh_interval_seconds = 0}]",
            "file_sd_configs 1: refresh_interval_seconds: 0 is not a number from 1 to 86400",
        ),
        ("[[group]]\nhttp_sd_configs = [{url = 'inventory'}]", "http_sd_configs 1: url: not http://HOST:PORT/PATH or"),
        ("[[group]]\nhttp_sd_configs = [{url = 'http://a:secret@b/'}]", "http_sd_configs 1: url: not http://HOST"),
        ("[[group]]\nhttp_sd_configs = [{url = 'http://a:99999/'}]", "http_sd_configs 1: url: not http://HOST:PORT"),
        (
            "[[group]]\nhttp_sd_configs = [{url = 'http://a/', bearer_token_file = 't'}]",
            "http_sd_configs 1: url: not https, so what is trusted and shown would be in the open",
        ),
        ("[[group]]\nrelabel_configs = [{}]\ntargets = []", "group 1: relabel_configs 1: target_label is missing"),
        ("[[group]]\ntls_config = 3\ntargets = []", "group 1: tls_config: 3 is not a table"),
        ("[[group]]\ntls_config = {ca = 'a'}\ntargets = []", "tls_config: unknown key 'ca'; legal keys: ca_file, cert"),
        ("[[group]]\ntls_config = {ca_file = 3}\ntargets = []", "tls_config: ca_file: 3 is not a text"),
        ("[[group]]\ntls_config = {cert_file = 'a'}\ntargets = []", "cert_file and key_file go together"),
        ("[[group]]\nbasic_auth = {username = 'a'}\ntargets = []", "username and password_file go together"),
        ("[[group]]\nbasic_auth = {username = 'a:b', password_file = 'p'}\ntargets = []", "a name with a colon"),
        ("[[group]]\nbearer_token_file = 7\ntargets = []", "group 1: bearer_token_file: 7 is not a text"),
        (
            "[[group]]\nbearer_token_file = 'a'\nbasic_auth = {username = 'a', password_file = 'b'}\ntargets = []",
            "give one of basic_auth and bearer_token_file",
        ),
        (
            "[[group]]\nbearer_token_file = 'a'\ntargets = ['https://a:1', 'http://b:1']",
            "group 1: targets: http://b:1 is not https, so what this group trusts and shows would be in the open",
        ),
        (
            "[[group]]\ntargets = ['http://a:1', 'http://A:1/']",
            "group 1: targets: http://a:1 stands in group 1 already",
        ),
    ],
)
def test_what_is_wrong_with_a_group_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_targets(write(tmp_path, text))
    sentence = str(caught.value)
    assert said in sentence
    assert FILE in sentence
    assert "\n" not in sentence
    assert "secret" not in sentence


def test_more_targets_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "TARGETS_MAX", 2)
    file = write(tmp_path, "[[group]]\ntargets = ['http://a', 'http://b', 'http://c']")
    with pytest.raises(ConfigurationError, match="group 1: targets: more than 2 targets in all"):
        load_targets(file)
