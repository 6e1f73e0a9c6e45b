"""Interpreters for stages, made for a test: real environments with links to this one's libraries."""

from __future__ import annotations

import importlib.util
import sys
import venv
from pathlib import Path

from qwenlong_core.store.fingerprint import ROOT

PYDANTIC = ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection")


def environment(home: Path, *paths: Path | str) -> Path:
    """An empty environment that also imports from ``paths``; returns its interpreter."""
    venv.create(home, symlinks=True)
    [site_packages] = home.glob("lib/python*/site-packages")
    (site_packages / "more.pth").write_text("\n".join(map(str, paths)) + "\n")
    return home / "bin/python"


def with_our_libraries(home: Path, *more: Path) -> Path:
    """An environment with this one's libraries and the checkout's core."""
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return environment(home, *more, *libraries, ROOT)


def without_torch(home: Path, core: Path) -> Path:
    """An environment with a ``qwenlong_core`` and pydantic."""
    links = home / "links"
    links.mkdir(parents=True)
    (links / "qwenlong_core").symlink_to(core)
    for name in PYDANTIC:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin)
        source = source.parent if source.name == "__init__.py" else source
        (links / source.name).symlink_to(source)
    return environment(home / "venv", links)


def fake_vllm(folder: Path) -> Path:
    """A folder that holds a distribution called vllm, without its code."""
    about = folder / "vllm-9.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9\n")
    (about / "top_level.txt").write_text("vllm\n")
    (folder / "vllm.py").write_text("")
    return folder
