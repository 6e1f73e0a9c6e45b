"""``launch.python``: every stage's process starts there, and its libraries are what the fingerprint counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stage_interpreters import environment, fake_vllm, with_our_libraries, without_torch

from qwenlong.tasks.process import stage_command
from qwenlong.tasks.specs import base_stage, pipeline_stages, register_stage
from qwenlong.tasks.stage import RunContext, execute_stage, stage_fingerprint
from qwenlong.tasks.store import open_store
from qwenlong_core.interpreter import installed_in
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.fingerprint import ROOT, code_digest


@pytest.fixture(scope="module")
def vllm_python(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    return with_our_libraries(folder / "venv", fake_vllm(folder / "more"))


def settings(python: Path | None, *overrides: str):
    given = [] if python is None else [f"launch.python={python}"]
    return load_settings("smoke", [*given, *overrides])


def test_every_process_but_the_registrys_starts_there(vllm_python, tmp_path, monkeypatch):
    monkeypatch.chdir(vllm_python.parents[2])
    given = settings(Path("venv/bin/python"))
    specs = {stage.name: stage.spec() for stage in pipeline_stages(given) if stage.spec}
    assert {name: spec.python for name, spec in specs.items()} == {
        name: None if name == "register" else "venv/bin/python" for name in specs
    }
    for options in (None, ["--num_processes", "2"]):
        command = stage_command("m", options, Path("job.json"), {}, tmp_path, python=specs["sft"].python)
        assert command[0] == str(vllm_python), "absolute, and not what the link points to"
    assert stage_command("m", None, Path("job.json"), {}, tmp_path)[0] == sys.executable


def test_the_fingerprint_counts_its_libraries_and_not_its_path(vllm_python, tmp_path):
    same = with_our_libraries(tmp_path / "same")
    here, there, elsewhere = (stage_fingerprint(base_stage(settings(p)), {}) for p in (None, same, vllm_python))
    assert here == there
    assert elsewhere != here, "it has vLLM"
    assert installed_in(str(vllm_python)).version_of("vllm") == "9.9"
    register = [stage_fingerprint(register_stage(settings(p)), {}) for p in (None, vllm_python)]
    assert register[0] == register[1], "it runs in the pipeline's own process"


def test_a_stage_runs_there_with_its_folder_first_on_the_path(vllm_python, tmp_path):
    [site_packages] = vllm_python.parents[1].glob("lib/python*/site-packages")
    (site_packages / "sitecustomize.py").write_text(
        "import os, sys\nprint('in', sys.prefix, os.environ['PATH'].split(':')[0], file=sys.stderr)\n"
    )
    folders = [f"storage.{name}='{tmp_path / name}'" for name in ("uri", "work_dir", "runs_dir")]
    given = settings(vllm_python, "model.name=tiny", *folders, f"tracking.uri='sqlite:///{tmp_path}/mlflow.db'")
    lines: list[str] = []
    spec, context = base_stage(given), RunContext(settings=given, run_id="r")
    outcome = execute_stage(spec, {}, context, forced=False, log=lines.append, progress=lambda line: None)
    assert f"in {vllm_python.parents[1]} {vllm_python.parent}" in lines
    code = open_store(given).manifest(outcome.ref).code_digest
    assert code == spec.code != code_digest((spec.module,)), "recorded under what ran it"


def another_core(folder: Path) -> Path:
    core = folder / "core"
    shutil.copytree(ROOT / "qwenlong_core", core, ignore=shutil.ignore_patterns("__pycache__"))
    with (core / "records.py").open("a") as stream:
        stream.write("# edited\n")
    return core


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda home: home / "nowhere/python", "cannot be started .*No such file"),
        (lambda home: environment(home / "bare"), "cannot run this project's stages .*No module named 'qwenlong_core'"),
        (lambda home: without_torch(home, ROOT / "qwenlong_core"), "has no torch"),
    ],
)
def test_an_interpreter_that_cannot_run_stages_is_refused_with_the_mend(make, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = make(tmp_path)
    with pytest.raises(ValueError, match=rf"launch\.python='{python}' {reason}.*make setup-gpu.*extra `gpu`"):
        stage_fingerprint(base_stage(settings(python)), {})


def test_another_version_of_the_core_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = without_torch(tmp_path, another_core(tmp_path))
    with pytest.raises(ValueError, match=r"another qwenlong_core .*install the same one there"):
        installed_in(str(python))


def test_the_console_says_what_an_environment_for_stages_lacks(tmp_path):
    (tmp_path / "qwenlong").mkdir()
    (tmp_path / "qwenlong/flows").symlink_to(ROOT / "flows")
    python = environment(tmp_path / "venv", tmp_path)
    command = [python, "-m", "qwenlong.flows.cli", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the command needs prefect, mlflow, boto3, typer: run `make setup`")
