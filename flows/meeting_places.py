"""Store, MLflow and Prefect of a profile whose stages run on work pools: the workers' hosts must reach them as well."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from qwenlong_core.proxies import is_loopback
from qwenlong_core.settings.running import S3Settings
from qwenlong_core.settings.tree import Settings

STORE, MLFLOW, PREFECT = "artifact store", "MLflow", "Prefect"

_OF_A_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "afs", "orangefs", "wekafs"),
        *("9p", "virtiofs"),
    }
)
"""File systems that several machines can mount; those of ``fuse`` (JuiceFS, sshfs ...) are told by their prefix."""
_HERE = "or, if the workers run on this machine, set execution.workers_here=true"


def not_shared(settings: Settings) -> dict[str, str]:
    """What workers on other hosts could not reach, with the mend; empty where no stage runs on one.

    The keys are among :data:`STORE`, :data:`MLFLOW` and :data:`PREFECT`. Nothing is asked: an address that is not on
    this machine may still be wrong.
    """
    execution = settings.execution
    if not execution.deployments or execution.workers_here:
        return {}
    faults = {STORE: _store(settings), MLFLOW: _mlflow(settings.tracking.uri), PREFECT: _prefect()}
    return {topic: f"{fault}, {_HERE}" for topic, fault in faults.items() if fault}


def require_shared(settings: Settings) -> None:
    """Refuse a profile with deployments that keeps on this machine what both sides need.

    Raises:
        ValueError: naming each place and its mend.
    """
    if faults := not_shared(settings):
        families = ", ".join(settings.execution.deployments)
        told = "\n".join(f"- {fault}" for fault in faults.values())
        raise ValueError(f"execution.deployments sends stages ({families}) to workers, which could not reach\n{told}")


def _store(settings: Settings) -> str | None:
    uri, s3 = settings.storage.uri, settings.storage.s3 or S3Settings()
    if not uri.startswith("s3://"):
        mounts = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
        if on_a_network(Path(uri), mounts):
            return None
        return (
            f"the folder storage.uri={uri!r}, on a disk of this machine: set storage.uri to s3://BUCKET/PREFIX, or to "
            "a folder of a file system that all mount"
        )
    endpoint = s3.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if is_loopback(endpoint):
        return f"the bucket's server at {endpoint}: give storage.s3.endpoint_url the name of its host"
    return None


def on_a_network(folder: Path, mounts: Mapping[Path, str]) -> bool:
    """Whether a folder, which need not exist yet, lies on a file system that other machines mount.

    Args:
        mounts: the kind of file system at each mount point.
    """
    place = folder.absolute().resolve()
    kind = next((mounts[above] for above in (place, *place.parents) if above in mounts), "")
    return kind in _OF_A_NETWORK or kind.startswith("fuse.")


def _mlflow(uri: str) -> str | None:
    mend = "set tracking.uri to http://HOST:PORT of a server (infra/compose.yaml has one) or to a Postgres database"
    if uri.startswith("sqlite:"):
        return f"MLflow's file tracking.uri={uri!r}: {mend}"
    return f"MLflow at tracking.uri={uri!r}, which means another machine there: {mend}" if is_loopback(uri) else None


def _prefect() -> str | None:
    from prefect.settings import PREFECT_API_URL  # here, as Prefect reads its settings when it is imported

    url = PREFECT_API_URL.value()
    if url and not is_loopback(url):
        return None
    found = f"Prefect at {url}" if url else "Prefect's server, which the run would start for itself"
    return (
        f"{found}: export PREFECT_API_URL with the name of the server's host (`prefect server start --host 0.0.0.0`, "
        "or infra/compose.yaml)"
    )
