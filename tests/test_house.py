"""Rules of the tree that no linter holds: sizes, a test folder per folder, names, no formatter switched off in vain."""

from __future__ import annotations

import ast
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenlong_core.store.fingerprint import ROOT

PRODUCT = ("flows", "tasks", "qwenlong_core")
CHECKED = (*PRODUCT, "infra", "benchmarks", "tests")
FILE_LINES, FUNCTION_LINES = 400, 60
SKIP = "# fmt: " + "skip"  # in two parts, so that this file does not count as one that uses it


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def formatted(text: str, path: Path) -> str:
    """``text`` as ``ruff format`` writes it, with the settings of this project."""
    ruff = Path(sysconfig.get_path("scripts")) / "ruff"
    command = [ruff if ruff.is_file() else "ruff", "format", "--stdin-filename", path, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_files_are_short():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files(*CHECKED)}
    long = {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > FILE_LINES}
    assert not long, f"over {FILE_LINES} lines"


def test_functions_are_short():
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": length
        for path in files(*CHECKED)
        for function in functions(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES
    }
    assert not long, f"over {FUNCTION_LINES} lines"


def test_every_folder_of_the_product_has_its_folder_of_tests():
    folders = {path.parent.relative_to(ROOT) for path in files(*PRODUCT) if path.name != "__init__.py"}
    folders -= {Path("qwenlong_core")}  # its own modules are tested in the folders that use them
    expected = {Path(*folder.parts[folder.parts[0] == "qwenlong_core" :]) for folder in folders} | {Path("benchmarks")}
    found = {path.parent.relative_to(ROOT / "tests") for path in files("tests") if path.name.startswith("test_")}
    assert found - {Path()} == expected


def test_names_of_test_files_are_unique():
    """pytest imports them without their folders, and ends the whole run at the second of a name."""
    names = Counter(path.name for path in files("tests") if path.name.startswith("test_"))
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize(
    "path",
    [path for path in files(*CHECKED) if SKIP in path.read_text(encoding="utf-8")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_formatter_is_switched_off_only_where_it_would_change_something(path):
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    in_vain = []
    for number, line in enumerate(lines):
        if SKIP in line:
            bare = line.replace(SKIP, "").rstrip() + "\n"
            without = "".join([*lines[:number], bare, *lines[number + 1 :]])
            if formatted(without, path) == without:
                in_vain.append(number + 1)
    assert not in_vain
