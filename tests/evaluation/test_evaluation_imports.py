"""Scores, gate and report load without torch: they run where no model can."""

import pkgutil
import subprocess
import sys

import qwenlong_core.evaluation


def test_no_module_imports_torch_or_an_engine():
    names = [module.name for module in pkgutil.iter_modules(qwenlong_core.evaluation.__path__)]
    assert {"runner", "promotion", "report", "statistics"} <= set(names)
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module('qwenlong_core.evaluation.' + name)\n"
        "print([name for name in ('torch', 'transformers', 'vllm', 'prefect', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
