"""docs/troubleshooting.md quotes what the program really says, and names settings that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from qwenlong_core.store.fingerprint import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
GAP = "\0"


@cache
def said() -> str:
    """Every text in the code, with a gap for each value in it."""
    found = []
    for path in [path for folder in ("flows", "tasks", "qwenlong_core") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n\n".join(found)


@pytest.mark.parametrize("message", QUOTED)
def test_the_program_says_what_the_page_quotes(message):
    # What stands between two values is in the code as it is.
    pattern = rf"[^\n]*?{GAP}[^\n]*?".join(map(re.escape, message.strip(". ").split("...")))
    assert re.search(pattern, said()), message


def test_the_settings_that_the_page_names_exist():
    known = set(re.findall(r"`([\w.]+)`", (ROOT / "docs/settings.md").read_text(encoding="utf-8")))
    blocks = {name.partition(".")[0] for name in known if "." in name}
    written = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:=\w+)?`", PAGE)
    named = {name for name in written if name.partition(".")[0] in blocks}
    assert len(named) > 8
    assert not {name for name in named - known if f"{name}.N" not in known}


def test_there_is_enough_to_look_up():
    assert len(QUOTED) > 30
