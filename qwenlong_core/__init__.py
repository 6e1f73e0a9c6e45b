"""The method: long-context reasoning by reinforcement learning, after QwenLong-L1 (arXiv 2505.17667).

``import qwenlong_core`` offers the names of :mod:`qwenlong_core.public`, each loaded when it is first asked for.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # By name, not by statement: this file is in the code of every stage, and an edit to the public names changes none.
    if not name.startswith("_"):
        from importlib import import_module

        public = import_module("qwenlong_core.public")
        if name in public.__all__:
            return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
