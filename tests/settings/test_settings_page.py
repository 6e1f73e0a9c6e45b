"""docs/settings.md is what the settings say of themselves: current, whole, and with the bounds that are checked."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from qwenlong_core.settings.profiles import SettingsError, load_settings
from qwenlong_core.store.fingerprint import ROOT

sys.path.insert(0, str(ROOT / "infra"))
import settings_page

PAGE = settings_page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_current():
    assert settings_page.page() == PAGE, "run: python infra/settings_page.py"


def names(tree: Any, name: str = "") -> Iterator[str]:
    """Every setting that a profile gives, as the page writes it."""
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        yield from names(tree[0], f"{name}.N")
    elif isinstance(tree, dict) and name not in ("execution.deployments",) and not name.endswith(".kinds"):
        for key, value in tree.items():
            yield from names(value, f"{name}.{key}".lstrip("."))
    else:
        yield name


@pytest.mark.parametrize("profile", sorted(ROOT.glob("infra/profiles/*.toml")), ids=lambda path: path.stem)
def test_every_setting_of_a_profile_is_on_the_page(profile):
    same = dict(re.findall(r"^## `(\S+)`\n\nAs `(\S+)`\.$", PAGE, re.MULTILINE))
    given = list(names(tomllib.loads(profile.read_text(encoding="utf-8"))))
    assert len(given) > 20
    for name in given:
        block, _, field = name.rpartition(".")
        assert f"| `{same.get(block, block)}.{field}` |".replace("`.", "`") in PAGE, name


BOUNDED = re.findall(r"^\| `([\w.]+)` \| whole number from ([\d,]+) to ([\d,]+)", PAGE, re.MULTILINE)
PLAIN = [row for row in BOUNDED if not re.search(r"\.N\.|^distill|server|judge|vllm|s3|aepo", row[0])]


@pytest.mark.parametrize(("name", "low", "high"), PLAIN, ids=[row[0] for row in PLAIN])
def test_the_bounds_are_those_that_are_checked(name, low, high):
    for value in (int(low.replace(",", "")) - 1, int(high.replace(",", "")) + 1):
        with pytest.raises(SettingsError, match=re.escape(name)):
            load_settings("smoke", [f"{name}={value}"])


def test_there_are_bounds_and_meanings_to_look_at():
    assert len(PLAIN) > 30
    rows = re.findall(r"^\| `\S+` \| .* \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 150 and sum(bool(row) for row in rows) > 0.7 * len(rows)
