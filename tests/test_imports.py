"""The import rules: flows -> tasks -> qwenlong_core, no circles, and the light parts of the core without torch."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys

import pytest

from qwenlong_core.store.fingerprint import ROOT, closure, module_file

FORBIDDEN = ("prefect", "mlflow", "boto3", "qwenlong")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of(package: str) -> list[str]:
    paths = (ROOT / package).rglob("*.py")
    names = (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths)
    prefix = "" if package == "qwenlong_core" else "qwenlong."
    return [prefix + name.removesuffix(".__init__") for name in names]


def test_the_core_imports_no_orchestrator_tracker_or_cloud():
    """By the sources: some libraries import MLflow themselves where it is installed."""
    modules, outside = closure(modules_of("qwenlong_core"))
    assert len(modules) > 20
    assert outside.isdisjoint(FORBIDDEN)
    assert {name.partition(".")[0] for name in modules} == {"qwenlong_core"}


def test_tasks_do_not_import_flows():
    modules, _ = closure(modules_of("tasks"))
    assert not [name for name in modules if name.startswith("qwenlong.flows")]


@pytest.mark.parametrize(
    "module",
    [
        "records",
        "settings.tree",
        "jobs",
        "settings.profiles",
        "store.artifacts",
        "store.fingerprint",
        "data.prepare",
        "rewards.hybrid",
        "rewards.judge",
        "rewards.health",
        "rewards.monitor",
        "evaluation.scores",
    ],
)
def test_the_light_parts_load_without_torch(module):
    assert "torch" not in loaded_after(f"import qwenlong_core.{module}")


def imports_of(module: str, known: set[str]) -> set[str]:
    """Modules of the project that a module names in its import statements, those inside functions too."""
    found: set[str] = set()
    path = module_file(module)
    assert path is not None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known - {module}


def test_no_modules_import_each_other_in_a_circle():
    modules = {name for package in ("flows", "tasks", "qwenlong_core") for name in modules_of(package)}
    graph = {module: imports_of(module, modules) for module in modules}
    assert sum(map(len, graph.values())) > 300
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}", pytrace=False)
