"""What a rehearsal needs from the machine, and what it says where that is missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from qwenlong_core.rehearsal import shim


def test_the_pinned_torch_is_the_one_that_the_private_interfaces_were_read_in() -> None:
    """After an upgrade: read `shim.py` and `device.py` beside the new torch, run the slow tests here, then raise it."""
    assert version("torch").startswith(shim.MADE_FOR + ".")


LIBRARIES = {"torch", "accelerate", "transformers", "trl"}
NAMED_HERE = {"device.py", "shim.py"}


def private_names(source: str) -> Iterator[str]:
    """Names of the libraries that begin with an underscore, imported or read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            found = [ast.unparse(node)]
        else:
            continue
        for name in found:
            first, *rest = name.split(".")
            if (first in LIBRARIES and any(part.startswith("_") for part in rest)) or rest[-1:] == ["_cdata"]:
                yield name


def test_private_interfaces_are_named_in_one_file_and_the_shim() -> None:
    source = "import torch._dynamo\nfrom trl.x import _y\nstorage._cdata\ntorch.nn.Linear\nself._step"
    assert sorted(private_names(source)) == ["storage._cdata", "torch._dynamo", "trl.x._y"]
    folder = Path(shim.__file__).parent
    found = {file.name: list(private_names(file.read_text())) for file in folder.glob("*.py")}
    assert found["device.py"]
    assert {name: names for name, names in found.items() if names and name not in NAMED_HERE} == {}


def test_without_a_compiler_the_reason_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "no `g++`" in (shim.obstacle() or "")
    program = "from qwenlong_core.rehearsal.shim import load_shim; load_shim()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "NoRehearsal: the rehearsal compiles" in done.stderr


def test_another_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim, "version", lambda _: "2.14.0+cpu")
    assert (
        shim.obstacle() == "the rehearsal was made for torch 2.13, and this is torch 2.14.0+cpu: rehearse with that one"
    )


def test_it_must_come_before_torch() -> None:
    program = "import torch; from qwenlong_core.rehearsal.shim import load_shim; load_shim()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "NoRehearsal: torch is imported already" in done.stderr
