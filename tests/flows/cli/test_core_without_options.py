"""The core speaks of settings and arguments; only the console knows its options."""

import re
from typing import Any

import pytest
import typer

from qwenlong.flows.cli.main import app
from qwenlong_core.store.fingerprint import ROOT


def options_of(command: Any) -> set[str]:
    own = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


OPTIONS = options_of(typer.main.get_command(app))
NAMED = re.compile(rf"(?<![\w-])({'|'.join(sorted(OPTIONS))})(?![\w-])")


def test_the_pattern_finds_an_option_in_a_message():
    assert {"--set", "--model", "--all", "--from"} <= OPTIONS
    assert NAMED.search("choose another with --set a=b") and not NAMED.search("--num_processes --no-data --setup")


@pytest.mark.parametrize("path", sorted((ROOT / "qwenlong_core").rglob("*.py")), ids=str)
def test_no_module_of_the_core_names_an_option(path):
    found = [line.strip() for line in path.read_text().splitlines() if NAMED.search(line)]
    assert not found, f"name the setting or the argument instead: {found}"
