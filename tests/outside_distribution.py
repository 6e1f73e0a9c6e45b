"""A distribution of someone else: the one that CONTRIBUTING.md shows, or one with a fault, installed in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from qwenlong_core.store.fingerprint import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section() -> str:
    """What CONTRIBUTING.md says about additions from outside the tree."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return page.split("\n## From outside the tree\n")[1].split("\n## ")[0]


def files() -> dict[str, str]:
    """The files that the page shows, by the names in their first lines."""
    blocks = [text.partition("\n") for kind, text in _BLOCK.findall(section()) if kind != "console"]
    return {first.removeprefix("# "): rest for first, _, rest in blocks}


def commands() -> dict[str, list[str]]:
    """The commands that the page shows, by their headings."""
    parts = [part.partition("\n") for part in section().split("\n### ")]
    return {
        heading: [line for kind, text in _BLOCK.findall(rest) if kind == "console" for line in text.splitlines()]
        for heading, _, rest in parts
    }


def write(folder: Path, texts: dict[str, str]) -> Path:
    """Write files below a folder."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def install(source: Path, site: Path) -> Path:
    """Install a source tree as pip does, into a folder for PYTHONPATH."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site.absolute(), source.absolute()], check=True, capture_output=True, text=True)
    return site


def by_hand(site: Path, distribution: str, modules: dict[str, str], **groups: dict[str, str]) -> Path:
    """What an install leaves: modules, and the entry points of each group by name."""
    points = [f"[qwenlong.{group}]\n{_lines(of_group)}" for group, of_group in groups.items()]
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        "top_level.txt": "".join(f"{name.partition('/')[0].removesuffix('.py')}\n" for name in modules),
        "entry_points.txt": "\n".join(points),
    }
    write(site / f"{distribution.replace('-', '_')}-1.0.dist-info", about)
    return write(site, modules)


def _lines(points: dict[str, str]) -> str:
    return "".join(f"{name} = {target}\n" for name, target in points.items())


def run(site: Path | None, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in a folder, with what is installed in ``site``."""
    added = {} if site is None else {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=os.environ | added, capture_output=True, text=True
    )


def qwenlong(site: Path | None, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console."""
    return run(site, folder, "-m", "qwenlong.flows.cli", *arguments)
