"""Fingerprints: an edit re-runs the stages whose code it can reach, and no other."""

from __future__ import annotations

import pytest

from qwenlong_core.store.fingerprint import NOT_COUNTED, ROOT, closure, code_digest, fingerprint


@pytest.fixture
def project(tmp_path):
    """A small project: a -> b -> c, with a nested and a relative import, and a schema module."""
    files = {
        "qwenlong_core/__init__.py": "",
        "qwenlong_core/settings/base.py": "X = 1\n",
        "qwenlong_core/a.py": "from qwenlong_core import b\nimport numpy\n",
        "qwenlong_core/b.py": "def f():\n    from qwenlong_core.sub.c import g\n    return g\n",
        "qwenlong_core/sub/__init__.py": "",
        "qwenlong_core/sub/c.py": "from ..settings.base import X\nfrom . import d\ng = X\n",
        "qwenlong_core/sub/d.py": "",
        "qwenlong_core/unrelated.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def digest(project):
    code_digest.cache_clear()
    return code_digest(("qwenlong_core.a",), project)


def test_the_closure_follows_nested_and_relative_imports(project):
    modules, outside = closure(["qwenlong_core.a"], project)
    expected = {"", ".a", ".b", ".sub", ".sub.c", ".sub.d"}
    assert set(modules) == {f"qwenlong_core{name}" for name in expected}
    assert outside == {"numpy"}


@pytest.mark.parametrize("edited", ["a", "b", "sub/c", "sub/d", "sub/__init__", "__init__"])
def test_an_edit_in_the_closure_changes_the_digest(project, edited):
    before = digest(project)
    with (project / f"qwenlong_core/{edited}.py").open("a") as stream:
        stream.write("# edited\n")
    assert digest(project) != before


@pytest.mark.parametrize("edited", ["unrelated", "settings/base"])
def test_an_edit_outside_the_closure_or_to_a_schema_does_not(project, edited):
    before = digest(project)
    with (project / f"qwenlong_core/{edited}.py").open("a") as stream:
        stream.write("# edited\n")
    assert digest(project) == before


def test_every_settings_module_is_a_schema_but_those_that_do_something():
    settings = {f"qwenlong_core.settings.{path.stem}" for path in (ROOT / "qwenlong_core/settings").glob("[!_]*.py")}
    assert settings - NOT_COUNTED == {"qwenlong_core.settings.profiles", "qwenlong_core.settings.secrets"}
    assert NOT_COUNTED - settings == {"qwenlong_core.jobs", "qwenlong_core.errors"}


def test_a_module_that_does_not_exist_is_an_error(project):
    with pytest.raises(ValueError, match=r"no module 'qwenlong_core\.nope'"):
        closure(["qwenlong_core.nope"], project)


def test_every_part_of_the_fingerprint_counts():
    base = fingerprint("sft", {"lr": 1}, {"data": "d"}, "code")
    others = [
        fingerprint("grpo-1", {"lr": 1}, {"data": "d"}, "code"),
        fingerprint("sft", {"lr": 2}, {"data": "d"}, "code"),
        fingerprint("sft", {"lr": 1}, {"data": "e"}, "code"),
        fingerprint("sft", {"lr": 1}, {"data": "d"}, "edited"),
    ]
    assert base == fingerprint("sft", {"lr": 1}, {"data": "d"}, "code")
    assert len({base, *others}) == 5


def reaches(stage: str, module: str) -> bool:
    return f"qwenlong_core.{module}" in closure([f"qwenlong_core.{stage}"])[0]


def test_in_this_project_an_edit_reaches_just_the_stages_it_can_change():
    assert not any(reaches(stage, "report.build") for stage in ("evaluation.runner", "promotion.gate", "training.grpo"))
    assert reaches("training.grpo", "rewards.rules") and reaches("evaluation.runner", "rewards.rules")
    assert not reaches("training.sft", "rewards.rules") and not reaches("data.prepare", "training.grpo")
    assert reaches("training.sft", "data.prompts") and reaches("data.prepare", "data.prompts")
    assert not reaches("training.sft", "training.grpo")
    assert reaches("training.sft", "store.files") and not reaches("training.sft", "store.artifacts")
    assert not reaches("report.build", "training.grpo")


def test_data_preparation_depends_on_the_reward_rules_but_not_on_the_judge():
    modules, libraries = closure(["qwenlong_core.data.prepare"])
    rewards = {name.rpartition(".")[2] for name in modules if name.startswith("qwenlong_core.rewards.")}
    assert "rules" in rewards
    assert rewards.isdisjoint({"judge", "judge_prompt", "health", "monitor", "hybrid"})
    assert "qwenlong_core.endpoint" not in modules
    assert "openai" not in libraries
