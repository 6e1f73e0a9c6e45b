"""What is installed in the interpreter that runs the stages (``launch.python``).

vLLM and Prefect cannot share an environment: no release of vLLM for this torch accepts the FastAPI that Prefect needs.
So a stage's process may have an interpreter of its own. It is asked by running this module there, which prints JSON::

    .venv-gpu/bin/python -m qwenlong_core.interpreter            # libraries
    .venv-gpu/bin/python -m qwenlong_core.interpreter --devices  # loads torch
    .venv-gpu/bin/python -m qwenlong_core.interpreter --vllm     # loads vLLM
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from qwenlong_core.errors import STAGE_ENVIRONMENT
from qwenlong_core.plugged import GROUPS, distribution_of, entries
from qwenlong_core.settings.base import Block

B = TypeVar("B", bound=Block)

_ANSWER_SECONDS = 300
"""Loading torch from a cold network disk takes minutes."""


class Plug(Block):
    """An object that another distribution adds (:mod:`qwenlong_core.plugged`)."""

    group: str
    name: str
    target: str
    """Module and attribute."""
    distribution: str
    """With its version."""
    files: dict[str, str]
    """The files of the distribution's modules: paths by their names in them."""


class Installed(Block):
    """The libraries of an interpreter."""

    python: str
    """3.11, for example."""
    core: str
    """SHA-256 over the sources of its ``qwenlong_core``."""
    packages: dict[str, tuple[str, ...]]
    """What can be imported, and the distributions it comes from."""
    versions: dict[str, str]
    """Version of each distribution."""
    plugs: tuple[Plug, ...] = ()
    """What other distributions add."""

    def version_of(self, package: str) -> str | None:
        """Version of what ``import package`` would load, or ``None`` where it is not installed."""
        return self.versions[self.packages[package][0]] if package in self.packages else None


class Devices(Block):
    """What torch finds in an interpreter."""

    cuda: str | None
    """The CUDA version that torch was built for; ``None`` for a CPU build."""
    gpus: tuple[str, ...]
    attention: str
    """What ``model.attention = "auto"`` takes there."""


class VLLM(Block):
    """The vLLM of an interpreter."""

    version: str
    arguments: tuple[str, ...]
    """Names of the arguments of ``vllm.LLM``."""


def executable(python: str | None) -> str:
    """The interpreter's absolute path; ``None`` means this one.

    Symbolic links stay: an environment is told by the path of its ``python``, which links to the system's.
    """
    return sys.executable if python is None else str(Path(python).expanduser().absolute())


@functools.cache
def installed_in(python: str | None) -> Installed:
    """The libraries of ``launch.python``, asked once per process.

    Raises:
        ValueError: it cannot be started, lacks this project or torch, has another version of ``qwenlong_core``, or
            other distributions that add to it.
    """
    if python is None:
        return _installed_here()
    found = _ask(python, Installed)
    if found.core != (own := _installed_here().core):
        raise ValueError(
            f"launch.python={python!r} has another qwenlong_core ({found.core[:12]}) than this one ({own[:12]}), so a "
            "result would be recorded under code that did not make it: install the same one there"
        )
    if (there := _added(found)) != (here := _added(_installed_here())):
        raise ValueError(
            f"launch.python={python!r} and this interpreter differ in what other distributions add to qwenlong ("
            f"{', '.join(sorted(there ^ here))}): install the same ones in both"
        )
    if "torch" not in found.packages:
        raise ValueError(f"launch.python={python!r} has no torch, so it cannot run stages: {STAGE_ENVIRONMENT}")
    return found


@functools.cache
def devices_of(python: str | None) -> Devices:
    """The GPUs of ``launch.python``. It loads torch there, which takes seconds.

    Raises:
        ValueError: see :func:`installed_in`.
    """
    return _devices_here() if python is None else _ask(python, Devices, "--devices")


@functools.cache
def vllm_of(python: str | None) -> VLLM:
    """The vLLM of ``launch.python``. It loads vLLM there, which takes ten seconds or more.

    Raises:
        ValueError: see :func:`installed_in`; or vLLM is missing or cannot be loaded.
    """
    return _vllm_here() if python is None else _ask(python, VLLM, "--vllm")


def _added(installed: Installed) -> set[str]:
    return {f"{plug.distribution}: {plug.name} in qwenlong.{plug.group}" for plug in installed.plugs}


def _ask(python: str, answer: type[B], *options: str) -> B:
    """Run this module in the interpreter and read its answer."""
    command = [executable(python), "-m", __name__, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"launch.python={python!r} cannot be started ({error}): give the path of a Python that has this project "
            f"and torch; {STAGE_ENVIRONMENT}"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ValueError(f"launch.python={python!r} cannot run this project's stages ({reason}): {STAGE_ENVIRONMENT}")
    return answer.model_validate_json(done.stdout.splitlines()[-1])


@functools.cache
def _installed_here() -> Installed:
    packages = {name: tuple(sorted(set(found))) for name, found in metadata.packages_distributions().items()}
    names = sorted({name for found in packages.values() for name in found})
    return Installed(
        python=".".join(str(part) for part in sys.version_info[:2]),
        core=_core_digest(Path(__file__).parent),
        packages=packages,
        versions={name: metadata.version(name) for name in names},
        plugs=tuple(
            Plug(
                group=group,
                name=name,
                target=entry.value,
                distribution=distribution_of(entry),
                files=_files_of(entry, packages),
            )
            for group in GROUPS
            for name, entry in entries(group).items()
        ),
    )


def _files_of(entry: metadata.EntryPoint, packages: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The files of all modules of the entry point's distribution."""
    owner = entry.dist.name if entry.dist else ""
    # The finders of editable installs hold paths of this machine.
    tops = {name for name, found in packages.items() if owner in found and not name.startswith("__editable__")}
    files: dict[str, str] = {}
    for top in sorted({entry.module.partition(".")[0], *tops}):
        spec = importlib.util.find_spec(top)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            below = {path.relative_to(folder): path for path in Path(folder).rglob("*") if path.is_file()}
            files |= {f"{top}/{name}": str(path) for name, path in below.items() if "__pycache__" not in name.parts}
        if spec and spec.origin and spec.submodule_search_locations is None:
            files[Path(spec.origin).name] = spec.origin
    return files


def _core_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _devices_here() -> Devices:
    import torch

    from qwenlong_core.models import attention_implementation
    from qwenlong_core.settings.model import ModelSettings

    gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Devices(cuda=torch.version.cuda, gpus=gpus, attention=attention_implementation(ModelSettings()))


def _vllm_here() -> VLLM:
    import vllm

    return VLLM(version=vllm.__version__, arguments=tuple(field.name for field in dataclasses.fields(vllm.EngineArgs)))


if __name__ == "__main__":
    asked = {"--devices": _devices_here, "--vllm": _vllm_here}.get(sys.argv[-1], _installed_here)
    print(asked().model_dump_json())
