"""What a stage's result depends on, as one digest.

    fingerprint = stage name + job settings + parents' digests
                + the project modules its code imports (the closure, read from the sources)
                + the versions of the libraries those modules import, in the interpreter that runs the stage
                + what other distributions add there to what those modules read, reward or load

So an edit to the report never retrains a model, and an edit to a reward always does. Prefect's own ``TASK_SOURCE``
would not do: it hashes the lines of the task alone, and misses an edit to a function that the task calls.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.interpreter import Installed, Plug, installed_in
from qwenlong_core.plugged import GROUPS
from qwenlong_core.store.files import digest_file, digest_json

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("qwenlong_core", "qwenlong")

_IMPORTED_BY_NAME = frozenset({"gguf", "tokenizers", "vllm"})
"""Libraries that compute for us but are imported by other libraries, so that no import statement here names them."""

_SETTINGS = (
    "base",
    "data",
    "distill",
    "evaluation",
    "limits",
    "lora",
    "model",
    "plan",
    "rewards",
    "running",
    "training",
    "tree",
    "vllm",
)
_SCHEMAS = {"qwenlong_core.jobs", *(f"qwenlong_core.settings.{name}" for name in _SETTINGS)}
"""Pure settings schemas. Their values are in the job, which counts by itself, so their text need not."""
NOT_COUNTED = frozenset({"qwenlong_core.errors", *_SCHEMAS})
"""Modules left out of every code digest. Those of errors too: an error never becomes a result."""


def module_file(module: str, root: Path = ROOT) -> Path | None:
    """Source file of a project module, or ``None`` if there is no such module below ``root``."""
    parts = module.split(".")
    if parts[0] == "qwenlong" and not (root / "qwenlong").is_dir():
        parts = parts[1:]  # a checkout, where qwenlong.tasks is the folder tasks/
    base = root.joinpath(*parts)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every dotted name that an import statement of the module could mean, also one inside a function."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            # `from a import b` may name the module a.b or something in a: try both, and what is no file drops out.
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def closure(modules: Iterable[str], root: Path = ROOT) -> tuple[dict[str, Path], frozenset[str]]:
    """The project modules that ``modules`` import, directly or not, and the outside packages these name.

    Sources are read and not imported, so that the closure of a GPU stage can be told on a machine without torch.

    Raises:
        ValueError: a start module does not exist.
    """
    found: dict[str, Path] = {}
    outside: set[str] = set()
    queue = list(modules)
    for module in queue:
        if module_file(module, root) is None:
            raise ValueError(f"there is no module {module!r} below {root}: a stage must name the code it runs")
    while queue:
        for name in _with_parents(queue.pop()):
            path = module_file(name, root)
            if path is None or name in found or name in NOT_COUNTED:
                continue
            found[name] = path
            tree = ast.parse(path.read_text(), filename=str(path))
            for target in _imported_names(tree, name, path.name == "__init__.py"):
                top = target.partition(".")[0]
                if top in PACKAGES:
                    queue.append(target)
                elif top and top not in sys.stdlib_module_names:
                    outside.add(top)
    return found, frozenset(outside)


@functools.cache
def code_digest(modules: tuple[str, ...], root: Path = ROOT, python: str | None = None) -> str:
    """Digest of the code closure of ``modules``, of the versions of the libraries it imports, and of the
    Python version (3.11). A library that is not installed counts as absent. Other distributions' sources, answer types,
    scorers and model families count with their files and with what these import, where the closure can use them.

    Args:
        python: the interpreter that runs them (``launch.python``); ``None`` for this one.

    Raises:
        ValueError: a module does not exist, or the interpreter cannot be used.
    """
    installed = installed_in(python)
    found, outside, plugs = _with_plugs(modules, root, installed)
    sources = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    libraries = {
        distribution: installed.versions[distribution]
        for package in outside | _IMPORTED_BY_NAME
        for distribution in installed.packages.get(package, ())
    }
    added = {f"{plug.group}:{plug.name}={plug.target}": _added_by(plug) for plug in plugs}
    digested = {"sources": sources, "libraries": libraries, "python": installed.python}
    return digest_json(digested | ({"plugged": added} if added else {}))


def _with_plugs(
    modules: tuple[str, ...], root: Path, installed: Installed
) -> tuple[dict[str, Path], frozenset[str], list[Plug]]:
    """The closure of modules and of what other distributions add to it, and these additions."""
    found, outside = closure(modules, root)
    plugs = [plug for plug in installed.plugs if GROUPS[plug.group].partition(":")[0] in found]
    imported = {name for plug in plugs for name in _imported_by(plug)}
    ours = {name for name in imported if name.partition(".")[0] in PACKAGES and module_file(name, root)}
    if ours - {*found, *NOT_COUNTED}:
        return _with_plugs((*modules, *sorted(ours)), root, installed)
    return found, outside | {name.partition(".")[0] for name in imported} - {"", *PACKAGES}, plugs


def _imported_by(plug: Plug) -> Iterator[str]:
    for path in map(Path, plug.files.values()):
        if path.suffix == ".py":
            with contextlib.suppress(SyntaxError, ValueError):  # a file that is no module, such as a template
                # Their relative imports give names that are no module of this project and no installed package.
                yield from _imported_names(ast.parse(path.read_bytes()), "", False)


def _added_by(plug: Plug) -> dict[str, Any]:
    return {"distribution": plug.distribution, "files": {n: digest_file(Path(p)) for n, p in plug.files.items()}}


def fingerprint(stage: str, settings: Mapping[str, Any], parents: Mapping[str, str], code: str) -> str:
    """The digest that decides whether a stage's result is already there."""
    return digest_json({"stage": stage, "settings": settings, "parents": dict(parents), "code": code})
