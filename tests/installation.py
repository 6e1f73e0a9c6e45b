"""The project as a person installs it: a wheel in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from qwenlong_core.store.fingerprint import ROOT


def built(source: Path, out: Path) -> Path:
    """The wheel, built from a copy: a ``build`` folder left in the checkout would put deleted modules into it."""
    for name in ("flows", "tasks", "qwenlong_core", "infra"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "prefect.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out]
    subprocess.run([*build, source], check=True)
    [wheel] = out.glob("qwenlong-*.whl")
    return wheel


def installed(wheel: Path, home: Path) -> Path:
    """Programs of an environment with the wheel and the libraries of this one, but not its editable install.

    The libraries come through a ``.pth`` line. Python does not follow the ``.pth`` files of a folder added in this
    way, so the one that points to the checkout has no effect.
    """
    venv.create(home, symlinks=True)
    [site_packages] = home.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", home / "bin/python"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--ignore-installed", "--no-index", wheel], check=True)
    return home / "bin"
