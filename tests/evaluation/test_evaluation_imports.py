"""Evaluation, gate and report load without torch: they run where no model can."""

import pkgutil
import subprocess
import sys

import qwenlong_core


def test_no_module_imports_torch_or_an_engine():
    rooms = ("evaluation", "promotion", "report")
    modules = pkgutil.walk_packages(qwenlong_core.__path__, "qwenlong_core.")
    names = [module.name for module in modules if module.name.split(".")[1] in rooms]
    assert {"qwenlong_core." + name for name in ("evaluation.runner", "promotion.gate", "report.build")} <= set(names)
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'transformers', 'vllm', 'prefect', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
