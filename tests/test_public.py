"""The public names: there, documented, without torch; and the examples that plug the reward into other libraries."""

import asyncio
import importlib.util
import inspect
import re
import subprocess
import sys

import pytest

import qwenlong_core
from qwenlong_core import public
from qwenlong_core.store.fingerprint import ROOT, closure

RIGHT, WRONG = "<think>hm</think>Therefore, the answer is 25%.", "Therefore, the answer is 26%."


def load(name, **given):
    """A file of examples/, loaded by its path, as verl loads one."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_public_names_are_these_and_documented():
    assert sorted(public.__all__) == [
        "AnswerRule", "BadRow", "Completion", "Example", "Judge", "JudgeSettings", "LengthLimits", "RewardSettings",
        "Score", "Source", "reward", "score_completions",
    ]  # fmt: skip
    for name in public.__all__:
        assert getattr(qwenlong_core, name) is getattr(public, name)
        assert inspect.getdoc(getattr(public, name)) and re.search(rf"\b{name}\b", public.__doc__)
    with pytest.raises(AttributeError, match="no attribute 'closure'"):
        qwenlong_core.closure  # noqa: B018


def test_they_load_without_torch():
    code = "import sys; from qwenlong_core import reward, Judge; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_change_to_them_runs_no_stage_again():
    assert "qwenlong_core.public" not in closure(["qwenlong_core.training.grpo", "qwenlong_core.evaluation.runner"])[0]


@pytest.mark.parametrize(
    ("completion", "answers", "options", "value"),
    [
        (RIGHT, "0.25", {}, 1.0),
        (RIGHT, ["7", "0.25"], {}, 1.0),
        (WRONG, "0.25", {}, 0.0),
        ("I do not know.", "0.25", {}, 0.0),
        ("Therefore, the answer is (B).", "B", {"choices": ["in Paris", "in Rome"]}, 1.0),
        ("Therefore, the answer is 1914.", "1914", {"answer_type": "span"}, 1.0),
        ("Therefore, the answer is 32 million.", "32", {"answer_scale": "million"}, 1.0),
        ("Therefore, the answer is yes.", "No", {}, 0.0),
        ("So the answer is 25", "25%", {"truncated": True}, 0.0),
    ],
)
def test_reward(completion, answers, options, value):
    found = qwenlong_core.reward(completion, answers, **options)
    assert found.value == value and found.reason


def test_a_gold_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="unusable gold"):
        qwenlong_core.reward(RIGHT, "many", answer_type="number")


def test_trl_s_function_takes_texts_and_messages_and_columns():
    docqa_reward = load("trl_reward").docqa_reward
    assert docqa_reward([RIGHT, WRONG], answers=[["25%"], ["25%"]], prompts=["", ""]) == [1.0, 0.0]
    chat = [[{"role": "assistant", "content": "Therefore, the answer is B."}]] * 2
    options = [["in Paris", "in Rome"]] * 2
    assert docqa_reward(completions=chat, answers=[["B"], ["A"]], choices=options, question=["", ""]) == [1.0, 0.0]


def test_verl_s_function_scores_and_says_why():
    compute_score = load("verl_reward").compute_score
    right = compute_score("docqa", RIGHT, "0.25", {"index": 3, "answer_type": "number", "choices": None})
    assert right == {"score": 1.0, "extracted": "25%", "reason": "'25%' equals gold '0.25'"}
    assert compute_score("docqa", "no idea", ["0.25"], None, reward_router_address=None)["score"] == 0.0


def test_verifiers_finds_the_taskset_and_scores_with_it(tmp_path, monkeypatch):
    vf = pytest.importorskip("verifiers.v1", reason="no verifiers: pip install 'verifiers>=0.4'")
    from verifiers.v1.utils.loaders import load_taskset, taskset_config_type

    row = '{"domain": "math", "context": "It grew by a quarter.", "question": "How much?", "answers": ["25%"]}\n'
    (tmp_path / "rows.jsonl").write_text(row)
    monkeypatch.syspath_prepend(ROOT / "examples")
    name = "verifiers_environment"
    config = taskset_config_type(name)(id=name, path=tmp_path / "rows.jsonl")
    [task] = load_taskset(config)
    assert "It grew by a quarter." in task.data.prompt and "25%" not in task.data.prompt
    for text, value in ((RIGHT, 1.0), (WRONG, 0.0)):
        trace = answered(vf, task, text)
        asyncio.run(task.score(trace))
        assert trace.rewards["docqa"].value == value and trace.reward == value


def answered(vf, task, text):
    """What verifiers records of a question and the model's reply to it."""
    said = [vf.UserMessage(content=task.data.prompt), vf.AssistantMessage(content=text)]
    nodes = [vf.MessageNode(message=said[0]), vf.MessageNode(message=said[1], parent=0, sampled=True)]
    agent = vf.AgentInfo(config=vf.AgentConfig())
    return vf.Trace(task=vf.TraceTask(type="DocQATask", data=task.data), agent=agent, nodes=nodes)
