"""What a rehearsal needs from the machine, and what it says where that is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from qwenlong_core.rehearsal import shim


def test_the_pinned_torch_is_the_one_that_the_private_interfaces_were_read_in() -> None:
    """After an upgrade: read `shim.py` and `device.py` beside the new torch, run the slow tests here, then raise it."""
    assert version("torch").startswith(shim.MADE_FOR + ".")


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
