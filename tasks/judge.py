"""The judge that the pipeline serves itself (``judge.serve``): vLLM beside the stage that asks it.

:func:`served` starts it under ``tasks/keeper.py``, waits until it answers, and ends it. Everything that asks a judge
goes through here: stages, ``qwenlong eval``, ``probe`` and ``judge-check``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwenlong.tasks.keeper import READY
from qwenlong.tasks.process import ProcessFailed
from qwenlong_core.interpreter import executable
from qwenlong_core.settings.rewards import B, JudgeSettings, ServeSettings, with_judge_at
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.settings.tree import Settings

Log = Callable[[str], None]

ASKING = {"probe": "rewards", "grpo": "rewards", "evaluate": "evaluation"}
"""Families of stages that ask a judge, and the settings block that holds it."""

_TAIL = 15
"""Last lines of its log that are shown if it does not start."""
_BUILDS = "`make setup-gpu` builds one for GPUs, `make setup-vllm` for the CPU"
_LOOK = """
import importlib.metadata as found, json, sys
vllm = [f"{name} {found.version(name)}" for name in found.packages_distributions().get("vllm", [])]
gpus = 0
if sys.argv[1:]:
    import torch
    gpus = torch.cuda.device_count()
print(json.dumps({"vllm": vllm, "gpus": gpus}))
"""
"""What is asked of the judge's interpreter, which need not have this project. With an argument it counts the GPUs."""
_STOP_SECONDS = 60
"""Longer than the keeper gives the server to end."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A judge that is running."""

    url: str
    lifeline: int
    """Descriptor of a pipe. The judge lives as long as this process or one that inherits the descriptor."""


def judge_asked_by(family: str, settings: Settings) -> JudgeSettings | None:
    """The judge that a family of stages asks."""
    judge: JudgeSettings | None = getattr(settings, ASKING[family]).judge if family in ASKING else None
    return judge


@contextmanager
def served(judge: JudgeSettings | None, launch: LaunchSettings, log_file: Path, log: Log) -> Iterator[Service | None]:
    """Serve the judge while the block runs; ``None`` if the settings name an endpoint, or no judge.

    Args:
        log_file: takes what the judge writes.
        log: takes a line whenever it starts, dies or is started again.

    Raises:
        ProcessFailed: it did not start; the message holds the last lines of ``log_file``.
    """
    if judge is None or judge.serve is None:
        yield None
        return
    host = "127.0.0.1" if launch.num_machines == 1 else socket.getfqdn()
    port = _free_port(host)
    url = f"http://{host}:{port}/v1"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log(f"judge {judge.model}: starting it at {url}, its log is {log_file}")
    keeper, lifeline = _start(judge.serve, log_file, host, port, judge_command(judge, launch, host, port))
    try:
        _wait(keeper, judge, log_file, log)
        yield Service(url=url, lifeline=lifeline)
    finally:
        os.close(lifeline)
        _stop(keeper)


def _start(
    serve: ServeSettings, log_file: Path, host: str, port: int, command: list[str]
) -> tuple[subprocess.Popen[str], int]:
    """Start the keeper of a server; returns it and the end of the pipe that keeps the server alive."""
    limits = ["--start-seconds", str(60 * serve.start_minutes), "--restarts", str(serve.restarts)]
    where = ["--host", host, "--port", str(port), "--log", str(log_file)]
    ends, lifeline = os.pipe()
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "qwenlong.tasks.keeper", *where, *limits, "--", *command],
            stdin=ends,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(serve, command[0]),
            start_new_session=True,  # Ctrl-C and a closed terminal are for the pipeline, which then ends it
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(ends)
    return keeper, lifeline


def at(service: Service | None, settings: B) -> B:
    """Settings or a job with the address of the judge that was started for them, if it was."""
    return settings if service is None else with_judge_at(settings, service.url)


def judge_command(judge: JudgeSettings, launch: LaunchSettings, host: str, port: int) -> list[str]:
    """The command that serves the judge, as a person can run it by hand."""
    assert judge.serve is not None
    command = [_python(judge.serve, launch), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", judge.model, "--served-model-name", judge.model, "--host", host, "--port", str(port)]
    spread = ["--tensor-parallel-size", str(len(judge.serve.gpus))] if len(judge.serve.gpus) > 1 else []
    return [*command, *spread, *judge.serve.arguments]


def _python(serve: ServeSettings, launch: LaunchSettings) -> str:
    return executable(serve.python or launch.python)


def _environment(serve: ServeSettings, python: str) -> dict[str, str]:
    """The judge's variables: only its GPUs are visible, and its interpreter's folder stands first in ``PATH``."""
    inherited = [number for number in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if number]
    visible = ",".join(inherited[gpu] if inherited else str(gpu) for gpu in serve.gpus)
    path = os.pathsep.join(filter(None, [str(Path(python).parent), os.environ.get("PATH")]))
    return os.environ | {"CUDA_VISIBLE_DEVICES": visible, "PATH": path, "VLLM_NO_USAGE_STATS": "1"}


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


def _wait(keeper: subprocess.Popen[str], judge: JudgeSettings, log_file: Path, log: Log) -> None:
    """Wait until the judge answers; its later lines go to the log from a thread.

    Raises:
        ProcessFailed: it did not start.
    """
    settled, lines = threading.Event(), []

    def read() -> None:
        assert keeper.stdout is not None
        for line in map(str.strip, keeper.stdout):
            lines.append(line)
            log(f"judge {judge.model}: {line}")
            settled.set()
        settled.set()

    threading.Thread(target=read, name="judge", daemon=True).start()
    settled.wait()  # the keeper has the time limit
    if lines[:1] != [READY]:
        tail = log_file.read_text(errors="replace").splitlines()[-_TAIL:] if log_file.is_file() else []
        why = "; ".join(lines) or "its keeper ended"
        shown = "\n  ".join(["", *tail])
        raise ProcessFailed(f"the judge {judge.model!r} (judge.serve) {why}; the last lines of {log_file}:{shown}")


def _stop(keeper: subprocess.Popen[str]) -> None:
    keeper.terminate()
    try:
        keeper.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()


def obstacle(block: str, settings: Settings) -> str | None:
    """Why this machine cannot serve the judge of ``rewards`` or ``evaluation``, with the mend.

    ``None`` if nothing is known to be in the way, or nothing is to be served. To count GPUs it loads torch in the
    judge's interpreter, which takes seconds.
    """
    judge: JudgeSettings | None = getattr(settings, block).judge
    if judge is None or judge.serve is None:
        return None
    python, setting = _python(judge.serve, settings.launch), f"{block}.judge.serve"
    fault = _fault(python, judge.serve.gpus)
    return fault and f"{setting}: {python} {fault}; set {setting}.python to an interpreter with vLLM: {_BUILDS}"


def _fault(python: str, gpus: tuple[int, ...]) -> str | None:
    """Why an interpreter cannot serve a judge on these GPUs, or on the CPU where there are none."""
    try:
        asked = [python, "-c", _LOOK, *map(str, gpus)]
        found = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        return f"cannot be asked for vLLM ({error})"
    if not found["vllm"]:
        return "has no vLLM"
    if not gpus and not any("cpu" in name for name in found["vllm"]):
        return f"has {found['vllm'][0]}, which is for GPUs, and serve.gpus names none"
    if gpus and max(gpus) >= found["gpus"]:
        return f"finds {found['gpus']} GPU(s), so serve.gpus={list(gpus)} names one that is not there"
    return None
