"""Files that ship with the code: profiles, accelerate configurations and deployments.

A checkout has them at its root, a wheel beside the packages ``qwenlong.flows`` and ``qwenlong.tasks``:

    checkout                     installed (site-packages)
    infra/profiles/*.toml        qwenlong/infra/profiles/*.toml
    infra/accelerate/*.yaml      qwenlong/infra/accelerate/*.yaml
    prefect.yaml                 qwenlong/prefect.yaml
"""

from __future__ import annotations

from pathlib import Path

_AROUND = Path(__file__).resolve().parents[1]
SHIPPED = _AROUND / "qwenlong" if (_AROUND / "qwenlong").is_dir() else _AROUND
"""The folder that holds ``infra/`` and ``prefect.yaml``."""


def own_or_shipped(path: str) -> Path:
    """The file at ``path`` in the working directory if there is one, else the one that ships under that path."""
    own = Path(path)
    return own.absolute() if own.is_file() else SHIPPED / path
