"""The services of infra/compose.yaml, and what ``make stack`` makes of each: the same command and variables."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenlong_core.store.fingerprint import ROOT

SERVICES = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())["services"]


def of_the_file(name: str, text: str) -> str:
    """A command or value of the file, without the places that are others on every machine."""
    for volume, inside in (volume.split(":") for volume in SERVICES[name].get("volumes", ())):
        text = re.sub(rf"(?<![\w/]){inside}\b", f"VOLUME {volume}", text)
    text = re.sub(r"\$\{\w+[^}]*\}", "***", text).replace("0.0.0.0", "127.0.0.1")
    return without_ports(re.sub(rf"\b({'|'.join(SERVICES)}):(?=\d)", "127.0.0.1:", text))


def as_seen(text: str, folder: Path) -> str:
    """A command or value of a process that the stack started, likewise."""
    return without_ports(text.replace(f"{folder}/", "VOLUME "))


def without_ports(text: str) -> str:
    return re.sub(r"(?<=127\.0\.0\.1:)\d+|(?<=port[ =])\d+", "PORT", text)


def check_processes(processes: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """What ran is what the file says: command and variables, whatever the places."""
    assert set(processes) == {name for name, about in SERVICES.items() if "command" in about}
    for name, ran in processes.items():
        about = SERVICES[name]
        expected = of_the_file(name, f"{about.get('entrypoint', '')} {about['command']}").strip()
        program = next(place for place, word in enumerate(ran["command"]) if Path(word).name == expected.split()[0])
        seen = as_seen(" ".join([expected.split()[0], *ran["command"][program + 1 :]]), folder)
        assert seen.startswith(expected), f"{name}: {seen}"
        assert seen == expected or name == "s3", "SeaweedFS is several servers, each of which needs a port"
        assert set(ran["environment"]) == set(about["environment"])
        for key, value in about["environment"].items():
            assert as_seen(ran["environment"][key], folder) == of_the_file(name, value), (name, key)


def test_every_service_of_the_file_is_one_that_the_stack_starts():
    assert set(SERVICES) == {"postgres", "s3", "prefect", "mlflow", "worker"}
    assert [name for name, about in SERVICES.items() if "command" not in about] == ["postgres"], "its image has it"


@pytest.fixture
def here(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "infra")
    import compose_here

    return compose_here


def test_each_is_started_with_the_files_command_and_variables_in_the_order_of_their_needs(here, tmp_path):
    ports = itertools.count(40_001)
    secret = {"POSTGRES_PASSWORD": "***", "S3_SECRET_KEY": "***", "PREFECT_PASSWORD": "***"}
    found = here.services(secret, tmp_path, lambda: next(ports))
    started = {name: one for name, one in found.items() if one.command}
    ran = {name: {"command": list(one.command), "environment": one.environment} for name, one in started.items()}
    check_processes(ran, tmp_path)
    order = list(found)
    assert order.index("postgres") < min(order.index("prefect"), order.index("mlflow")) and order[-1] == "worker"
    assert [text.splitlines() for text in found["postgres"].configs.values()] == [
        ["CREATE DATABASE prefect;", "CREATE DATABASE mlflow;"]
    ]
    with pytest.raises(AssertionError):
        check_processes(ran | {"worker": {**ran["worker"], "environment": {}}}, tmp_path)


def test_a_variable_without_a_value_is_named(here, tmp_path):
    with pytest.raises(ValueError, match=r"compose.yaml asks for \$\{POSTGRES_PASSWORD\}, which has no value here"):
        here.services({}, tmp_path, lambda: 1)
