"""The services of ``infra/compose.yaml`` as processes of this machine: the file's commands and variables, other places.

A container has a network and a disk of its own. Here a service's name becomes loopback with a free port, a volume
becomes a folder, and everything else is as in the file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).with_name("compose.yaml")
PORTS = {"postgres": 5432, "s3": 8333, "prefect": 4200, "mlflow": 5000}
"""Where the services listen in their containers."""
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::\?[^}]*)?\})")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the file says of one service, with its places here."""

    name: str
    command: tuple[str, ...]
    """Empty for one whose image alone knows what to start."""
    environment: Mapping[str, str]
    configs: Mapping[str, str]
    """Texts of the files that it is given, by where its container finds them."""
    after: tuple[str, ...]
    """Services that are started before it."""
    port: int | None
    """Where it listens on loopback, if it does."""


def services(variables: Mapping[str, str], folder: Path, port: Callable[[], int]) -> dict[str, Service]:
    """The file's services, those that others wait for first.

    Args:
        variables: values of ``${NAME}`` in the file.
        folder: below it the volumes are, each under its own name.
        port: makes a free port.

    Raises:
        ValueError: a variable has no value here, or services wait for each other.
    """
    told = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    ports = {name: port() for name in PORTS}
    found = {
        name: _service(name, told, _Here(variables, _places(about, ports, folder)), ports.get(name))
        for name, about in told["services"].items()
    }
    ordered: dict[str, Service] = {}
    while len(ordered) < len(found):
        ready = [one for one in found.values() if one.name not in ordered and set(one.after) <= ordered.keys()]
        if not ready:
            raise ValueError(f"{COMPOSE.name}: {', '.join(found.keys() - ordered.keys())} wait for each other")
        ordered |= {one.name: one for one in ready}
    return ordered


@dataclass(frozen=True)
class _Here:
    """What a text of the file is on this machine."""

    variables: Mapping[str, str]
    places: Sequence[tuple[str, str]]

    def __call__(self, text: object) -> str:
        found = _VARIABLE.sub(lambda variable: variable[1] or self._value(variable[2]), str(text))
        for pattern, place in self.places:
            found = re.sub(pattern, place, found)
        return found

    def _value(self, name: str) -> str:
        if name not in self.variables:
            raise ValueError(f"{COMPOSE.name} asks for ${{{name}}}, which has no value here")
        return self.variables[name]


def _places(about: Mapping[str, Any], ports: Mapping[str, int], folder: Path) -> list[tuple[str, str]]:
    """What is written otherwise here than in the file: patterns and their replacements."""
    addresses = [(rf"\b{name}:{PORTS[name]}\b", f"127.0.0.1:{here}") for name, here in ports.items()]
    listening = [(rf"(?<=port[ =]){PORTS[name]}\b", str(here)) for name, here in ports.items()]
    volumes = [volume.split(":") for volume in about.get("volumes", ())]
    disks = [(rf"(?<![\w/]){inside}\b", str(folder / name)) for name, inside in volumes]
    return [*addresses, *listening, *disks, (r"0\.0\.0\.0", "127.0.0.1")]


def _service(name: str, told: Mapping[str, Any], here: _Here, port: int | None) -> Service:
    about = told["services"][name]
    words = [*shlex.split(about.get("entrypoint", "")), *shlex.split(about.get("command", ""))]
    return Service(
        name=name,
        command=tuple(shlex.split(here(shlex.join(words)))) if words else (),
        environment={key: here(value) for key, value in about.get("environment", {}).items()},
        configs={one["target"]: told["configs"][one["source"]]["content"] for one in about.get("configs", ())},
        after=tuple(about.get("depends_on", ())),
        port=port,
    )
