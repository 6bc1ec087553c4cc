# SPDX-License-Identifier: Apache-2.0
"""What a process runs, which rules that matches, and what covers what; traps that words in a command line set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.hints import RULES_MAX, WORLD_SIZE_MAX
from gpuledger.process_matching import ProcessFact, Program, Rule, make_table, match, program_of, settle, world_size
from gpuledger.process_rules import as_process, load_rules

TABLE = load_rules()


def process(*argv: str, exe: str | None = None, holds_gpu: bool = True) -> ProcessFact:
    return ProcessFact(pid=1, parent=0, argv=argv, exe=exe, holds_gpu=holds_gpu)


@pytest.mark.parametrize(
    ("line", "module", "script", "name"),
    [
        ("python3 train.py", None, "train.py", None),
        ("python3 -u -X dev -W ignore train.py -m x", None, "train.py", None),
        ("python3.11 -m vllm.x serve", "vllm.x", None, None),
        ("python -um pkg.mod", "pkg.mod", None, None),
        ("python -mpkg.mod", "pkg.mod", None, None),
        ("python3 /venv/bin/torchrun x.py", None, "/venv/bin/torchrun", "torchrun"),
        ("python3 -c 'import vllm' -m vllm", None, None, None),
        ("python3 -Ic 'import vllm'", None, None, None),
        ("python3 -", None, None, None),
        ("python3", None, None, None),
        ("bash -c 'vllm serve'", None, None, None),
        ("bash -lc 'vllm serve'", None, None, None),
        ("bash -e -o pipefail run.sh", None, "run.sh", None),
        ("/usr/bin/tritonserver --x", None, None, "tritonserver"),
        ("pythonic -m vllm", None, None, "pythonic"),
    ],
)
def test_what_runs_is_the_program_or_what_an_interpreter_was_told_to_run(
    line: str, module: str | None, script: str | None, name: str | None
) -> None:
    program = program_of(as_process(line))
    assert (program.module, program.script, program.name) == (module, script, name)


def test_an_interpreter_under_another_name_has_a_title_and_nothing_else() -> None:
    exe = "/usr/bin/python3.11"
    assert program_of(process("VLLM::EngineCore", exe=exe)) == Program(title="VLLM::EngineCore")
    assert program_of(process("vllm", "serve", exe=exe)) == Program(title="vllm")
    assert match([process("vllm", "serve", exe=exe)], TABLE) == ()


def test_a_process_without_a_command_line_runs_nothing_known() -> None:
    assert program_of(process()) == Program()
    assert program_of(process("")) == Program()


@pytest.mark.parametrize(
    "line",
    [
        "python3 train_x.py --model vllm serve".replace("train_x", "job"),
        "grep torchrun /var/log/jobs",
        "vim /venv/bin/torchrun",
        "bash -c 'vllm serve x'",
        "tail -f /srv/vllm/serve.log",
        "/srv/users/vllm/bin/solver serve",
        "python3 /srv/vllm/main.py serve",
        "python3 -c 'import sglang; sglang.launch_server()'",
        "pip install vllm",
        "git clone https://github.com/vllm-project/vllm",
    ],
)
def test_words_in_a_command_line_match_nothing(line: str) -> None:
    assert match([as_process(line)], TABLE) == ()


def test_a_script_in_a_folder_called_inference_is_what_it_is_called_itself() -> None:
    assert match([as_process("python3 /srv/inference/train.py")], TABLE) == ("script-train",)


def test_a_script_s_name_counts_only_where_it_holds_a_gpu() -> None:
    assert match([as_process("python3 train.py", holds_gpu=False)], TABLE) == ()


def test_vllm_as_the_rollout_of_a_trainer_is_training() -> None:
    tree = [
        as_process("python3 -m verl.trainer.main_ppo", holds_gpu=False),
        process("ray::WorkerDict.actor_rollout_generate_sequences", exe="/venv/bin/python3.11"),
        process("VLLM::EngineCore", exe="/venv/bin/python3.11"),
    ]
    assert match(tree, TABLE) == ("verl", "verl-worker")


def test_an_evaluation_under_a_launcher_of_training_is_inference() -> None:
    tree = [
        as_process("python3 /venv/bin/accelerate launch -m lm_eval --model hf", holds_gpu=False),
        as_process("python3 -m lm_eval --model hf"),
    ]
    assert match(tree, TABLE) == ("lm-eval",)
    assert {TABLE.rules[rule].tag for rule in match(tree, TABLE)} == {"batch"}


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("python3 /venv/bin/torchrun --nproc-per-node=8 --nnodes 2 x.py", 16),
        ("python3 /venv/bin/torchrun --nproc_per_node 4 x.py", 4),
        ("python3 /venv/bin/torchrun --nproc-per-node=8 --nnodes=2:4 x.py", 16),
        ("python3 /venv/bin/torchrun --nproc-per-node=gpu x.py", None),
        ("python3 /venv/bin/torchrun x.py", None),
        ("python3 /venv/bin/torchrun --nproc-per-node", None),
        ("python3 /venv/bin/torchrun --nproc-per-node=0", None),
        (f"python3 /venv/bin/torchrun --nproc-per-node={WORLD_SIZE_MAX} --nnodes=2", None),
        ("mpirun -np 64 ./solver", None),
        ("python3 /venv/bin/accelerate launch --num_processes 8 x.py", 8),
        ("python3 x.py --nproc-per-node=8", None),
    ],
)
def test_the_size_of_the_world_is_what_the_launcher_was_told(line: str, size: int | None) -> None:
    assert world_size([as_process(line)], TABLE) == size


def _rule(rule: str, kind: str = "training", weight: float = 1.0, covers: tuple[str, ...] = ()) -> Rule:
    return Rule(
        id=rule,
        kind=kind,
        tier=2,
        weight=weight,
        programs=(rule,),
        covers=covers,
        example=rule,
        counterexample="x",
        source="x",
    )


def test_two_rules_that_cover_each_other_both_stand() -> None:
    table = make_table("1", [_rule("a", covers=("b",)), _rule("b", covers=("kind:training",))])
    assert settle({"a", "b"}, table) == ("a", "b")


def test_of_too_many_rules_those_with_the_most_weight_are_kept() -> None:
    table = make_table("1", [_rule(f"r-{number:02}", weight=number / 10) for number in range(12)])
    assert settle(table.rules, table) == tuple(f"r-{number:02}" for number in range(4, 12))
    assert len(settle(table.rules, table)) == RULES_MAX


@given(st.lists(st.text(max_size=12), max_size=6), st.none() | st.text(max_size=12), st.booleans())
def test_any_command_line_at_all_gives_an_answer(argv: list[str], exe: str | None, holds_gpu: bool) -> None:
    found = match([process(*argv, exe=exe, holds_gpu=holds_gpu)], TABLE)
    assert found == tuple(sorted(set(found)))
    assert set(found) <= set(TABLE.rules)


@given(st.permutations(["python3 -m verl.trainer.main_ppo", "vllm serve x", "python3 train.py", "VLLM::EngineCore"]))
def test_the_order_of_processes_changes_nothing(lines: list[str]) -> None:
    tree = [as_process(line) for line in lines]
    assert match(tree, TABLE) == match([*reversed(tree), *tree], TABLE)
