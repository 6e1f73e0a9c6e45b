"""What the pages say about the tree is true: the files they name exist, and every error has its line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qwenlong_core.store.fingerprint import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("infra/*/*.md")])
PRODUCT = [path for folder in ("flows", "tasks", "qwenlong_core") for path in sorted((ROOT / folder).rglob("*.py"))]
FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|toml|yaml|md|lock|json|jsonl|svg)|[\w.-]+(?:/[\w.-]+)*/)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
FOLDERS = ("flows/", "tasks/", "qwenlong_core/", "infra/", "docs/", "benchmarks/", "tests/")


def named_files(page: Path) -> set[str]:
    """Paths in code marks that start at a folder of the tree or of the core."""
    core = tuple(f"{path.name}/" for path in (ROOT / "qwenlong_core").iterdir() if path.is_dir())
    return {name for name in FILE.findall(page.read_text(encoding="utf-8")) if name.startswith((*FOLDERS, *core))}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    missing = [
        name
        for name in named_files(page)
        if not (ROOT / name).exists() and not (ROOT / "qwenlong_core" / name).exists()
    ]
    missing += [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing


def test_the_pages_name_files_at_all():
    assert sum(len(named_files(page)) for page in PAGES) > 40


def test_every_error_of_the_tree_is_in_the_table_of_errors():
    bases = {"QwenlongError", "Refused", "Alarm", "ArtifactError"}
    classes = {
        node.name
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and bases & {getattr(base, "id", "") for base in node.bases}
    }
    assert len(classes) >= 6
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert classes <= listed, f"not in docs/architecture.md: {sorted(classes - listed)}"
