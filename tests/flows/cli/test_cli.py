"""The console command at the door: every mistake ends in one clear message before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from endpoint_server import says, served
from published_copies import write_copies
from stage_interpreters import fake_vllm, with_our_libraries

from qwenlong.flows.cli import doctor
from qwenlong.flows.cli.artifacts import _drawn
from qwenlong.flows.cli.common import console, table
from qwenlong.flows.cli.doctor import Finding
from qwenlong.flows.cli.doctor_sources import find_sources
from qwenlong_core.errors import STAGE_ENVIRONMENT
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.interpreter import Devices
from qwenlong_core.settings.profiles import load_settings


def qwenlong(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qwenlong.flows.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "grpo.grup_size=4"], "unknown setting grpo.grup_size: did you mean 'group_size'?"),
        (["--set", "grpo.group_size=1"], "greater than or equal to 2"),
        (["--set", "data.train=nowhere/*.jsonl"], "no file matches 'nowhere/*.jsonl'"),
        (["--profile", "lokal"], "no profile 'lokal': use one of"),
        (["--refresh", "grop"], "no stage 'grop' to refresh: this profile has base, prepare, sft"),
        (["--from", "evaluate"], "no stage 'evaluate' to start at"),
        (["--set", "storage.uri=taken/artifacts"], "storage.uri="),
    ],
)
def test_a_mistake_is_refused_with_one_message_and_exit_code_2(tmp_path, arguments, said):
    (tmp_path / "taken").write_text("a file where the artifact folder should be")
    done = qwenlong(tmp_path, "run", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list(tmp_path.glob(".qwenlong/artifacts/*"))


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        (["--port", "70000"], "'--port'"),
        (["--port", "-1"], "'--port'"),
        (["--port", "5000"], "--port and --mlflow-port are both 5000"),
    ],
)
def test_ports_that_cannot_be_served_are_refused(tmp_path, ports, said):
    done = qwenlong(tmp_path, "serve", *ports)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME", raising=False)  # tests that call a command in this process leave theirs
    (tmp_path / ".qwenlong").write_text("a file where the state folder should be")
    done = qwenlong(tmp_path, "artifacts", "ls")
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert ".qwenlong" in done.stderr and "name another place" in done.stderr


def test_an_unreadable_row_ends_before_any_training_with_file_and_line(tmp_path):
    row = {
        "id": "a",
        "source": "s",
        "domain": "math",
        "context": "Sales were 5.",
        "question": "Sales?",
        "answers": ["5"],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n{broken\n")
    done = qwenlong(tmp_path, "run", "--profile", "smoke", "--set", "data.train=rows.jsonl")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: prepare: ") and "rows.jsonl:2" in last
    assert "Traceback" not in done.stderr and "Task run 'sft'" not in done.stderr


def test_from_without_anything_to_start_on_says_so(tmp_path):
    done = qwenlong(tmp_path, "run", "--profile", "smoke", "--from", "sft")
    assert done.returncode == 2 and "there is no finished 'base' of profile 'smoke'" in done.stderr


def test_doctor_finds_the_local_profile_ready(tmp_path):
    done = qwenlong(tmp_path, "doctor", "--json")
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert findings["phase 3"]["found"].startswith("288 < prompt tokens <= 416: 24 generated rows")
    assert all(findings[name]["ok"] for name in ("torch", "prefect", "base model", "MLflow", "artifact store"))


def test_doctor_says_what_a_large_profile_lacks_here(tmp_path):
    done = qwenlong(tmp_path, "doctor", "--profile", "8gpu-14b", "--json")
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert "generated rows, and those of docqa-rl" in findings["phase 1"]["found"]
    assert "800 generated rows" in findings["phase 3"]["found"]
    for name in BENCHMARKS:
        assert "of the hub's" in findings[f"benchmark {name}"]["found"]
    assert findings["training data"]["found"].startswith("docqa-rl: train.parquet of the hub's Tongyi-Zhiwen/")
    assert not findings["Prefect"]["ok"] and "export PREFECT_API_URL with the name of" in findings["Prefect"]["mend"]
    assert findings["MLflow"]["found"] == "http://mlflow:5000" and not findings["artifact store"]["ok"]
    assert not findings["evaluation judge"]["ok"] and "DEEPSEEK_API_KEY" in findings["evaluation judge"]["mend"]
    judge = findings["training judge"]
    assert judge["found"] == "Qwen/Qwen2.5-1.5B-Instruct, started beside each stage that asks it, on the CPU"
    assert f"rewards.judge.serve: {tmp_path}/.venv-vllm/bin/python cannot be asked" in judge["mend"] and not judge["ok"]
    assert done.returncode == 1 and not findings["stage interpreter"]["ok"]
    assert findings["stage interpreter"]["found"] == str(tmp_path / ".venv-gpu/bin/python")
    assert "make setup-gpu" in findings["stage interpreter"]["mend"]


def test_tables_show_brackets_as_they_are(capsys):
    """rich would read them as markup: a ``pip install`` would lose its extra."""
    finding = Finding(topic="[red]vllm", ok=False, found="[1]", mend=f"{STAGE_ENVIRONMENT}; [/] [bold]x[/bold]")
    doctor._print([finding])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown == f"no {finding.topic} {finding.found} {finding.mend}"
    console(width=200).print(
        table("[t]", [{"[c]": "[link]"}]), _drawn({"input": "[i]", "missing": True, "sha256": "0"}, False, set())
    )
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[t]", "[c]", "[link]", "[i] 0 is not in the store"))
    makers = [path.name for path in Path(doctor.__file__).parent.glob("*.py") if " Console(" in path.read_text()]
    assert makers == ["common.py"]


@pytest.mark.parametrize(("cuda", "said"), [("13.0", False), (None, True)])
def test_a_pytorch_that_cannot_use_gpus_is_named(cuda, said):
    """On a machine with GPUs it finds none, as on a machine without."""
    finding = doctor._accelerator(load_settings("8gpu-14b"), Devices(cuda=cuda, gpus=(), attention="sdpa"))
    assert not finding.ok and "use a machine with 8 GPUs" in finding.mend
    assert ("built for the CPU" in finding.mend) == said


def test_vllm_is_looked_for_in_the_interpreter_of_the_stages(tmp_path):
    asked = ["--set", "grpo.engine=vllm-colocate"]
    refused = qwenlong(tmp_path, "run", "--profile", "smoke", *asked)
    assert refused.returncode == 2 and "set launch.python to its interpreter" in refused.stderr
    python = with_our_libraries(tmp_path / "stages", fake_vllm(tmp_path / "more"))
    done = qwenlong(tmp_path, "doctor", "--json", "--profile", "smoke", *asked, "--set", f"launch.python={python}")
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, findings
    assert findings["vllm"]["found"] == "9.9" and findings["rollout engine"]["found"] == "vllm-colocate"
    assert findings["stage interpreter"]["found"].startswith(f"{python}, PyTorch for ")


def traces_of(*overrides: str) -> list[Finding]:
    return list(doctor._traces(load_settings("smoke", ["distill.max_prompt_tokens=256", *overrides])))


def test_doctor_says_what_sft_learns_from_and_what_is_missing(tmp_path, monkeypatch):
    assert list(doctor._traces(load_settings("smoke"))) == []
    [skipped] = traces_of()
    assert skipped.ok and "SFT is skipped" in skipped.found and "distill.traces=FILE" in skipped.found
    (tmp_path / "t.jsonl").write_text("")
    there, missing = traces_of(f"distill.traces=['{tmp_path}/t.jsonl', 'nowhere.jsonl']")
    assert there.ok and not missing.ok and "'nowhere.jsonl', which is no file" in missing.mend
    with served(lambda number, request: says("")) as server:
        teacher = f"distill.teacher={{base_url='{server.url}', model='m', api_key_variable='TEACHER_KEY'}}"
        [keyless] = traces_of(teacher)
        assert not keyless.ok and keyless.mend == "set the environment variable TEACHER_KEY"
    monkeypatch.setenv("TEACHER_KEY", "k")
    [down] = traces_of(teacher)
    assert not down.ok and "does not answer" in down.mend


def test_doctor_finds_copies_and_says_which_to_fetch(tmp_path):
    copies = write_copies(tmp_path / "copies")
    (copies / "Tongyi-Zhiwen" / "frames" / "test.jsonl").unlink()
    data = load_settings("8gpu-14b", ["data.train=generated", f"data.benchmarks_dir={copies}"]).data
    found = {found.topic: found for found in find_sources(data)}
    assert {topic: finding.ok for topic, finding in found.items()} == {
        f"benchmark {name}": name != "frames" for name in BENCHMARKS
    }
    mend = "hf download Tongyi-Zhiwen/frames test.jsonl --repo-type dataset --local-dir"
    assert f"{mend} {copies}/Tongyi-Zhiwen/frames" in found["benchmark frames"].mend


def test_an_unreachable_prefect_server_that_was_asked_for_is_an_error(tmp_path):
    command = [sys.executable, "-m", "qwenlong.flows.cli", "run", "--profile", "smoke"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1
    assert "PREFECT_API_URL='http://127.0.0.1:9/api' does not answer" in done.stderr


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_group_leaves_the_run_its_prefect_server_until_the_end(tmp_path, sent):
    """A terminal and a supervisor signal the whole group; the server must be there to be told of the run's end."""
    code = (
        "import os, signal, time\n"
        "from qwenlong.flows.cli.common import one_clear_message\n"
        "from qwenlong.flows.cli.environment import is_up, prefect_api\n"
        "with one_clear_message(resumes=True), prefect_api() as url:\n"
        "    try:\n"
        f"        os.killpg(0, signal.{sent})\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        time.sleep(5)\n"
        "        print('up' if is_up(f'{url}/health', 30) else 'gone')\n"
        "        raise\n"
    )
    start = "import signal, typer; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, start_new_session=True)
    assert done.stdout == "up\n", done.stderr
    said = {"SIGINT": "interrupted: run the same", "SIGTERM": "stopped by SIGTERM: run the same"}[sent]
    assert said in done.stderr


def test_a_killed_run_takes_its_prefect_server_along(tmp_path):
    code = (
        "import time, psutil\n"
        "from qwenlong.flows.cli.environment import prefect_api, use_project_defaults\n"
        "use_project_defaults()\n"
        "with prefect_api() as url:\n"
        "    print(*[p.pid for p in psutil.Process().children()], flush=True)\n"
        "    time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    servers = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
    run.kill()
    run.communicate()
    assert servers and not psutil.wait_procs(servers, timeout=60)[1]


def test_the_console_starts_without_heavy_libraries(tmp_path):
    code = "import sys, qwenlong.flows.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "prefect", "mlflow", "boto3", "openai", "scipy", "pyarrow"}
    assert not heavy & set(done.stdout.split())


def test_a_name_that_is_no_models_is_refused_before_a_heavy_library_is_loaded(tmp_path):
    code = (
        "import sys\n"
        "from qwenlong.flows.cli.main import app\n"
        "code = app(['eval', '--model', 'nope'], standalone_mode=False)\n"
        "print(code, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'nope' names no model" in done.stderr and done.stdout.startswith("2 ")
    assert not {"torch", "transformers", "prefect", "mlflow"} & set(done.stdout.split())


@pytest.mark.parametrize("command", ["run", "serve", "doctor", "score", "generate", "sources", "eval", "ask", "export"])
def test_every_command_explains_itself(tmp_path, command):
    done = qwenlong(tmp_path, command, "--help")
    assert done.returncode == 0 and len(done.stdout) > 300
