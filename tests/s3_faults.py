"""Faults between the bucket store and a real S3 server, one kind after the other.

    python tests/s3_faults.py --each 110

Writers publish small artifacts through a proxy that breaks a share of the requests, and readers with an empty cache
fetch them. What a reader gets is compared with what was written, and every artifact that counts as whole is verified
without the proxy. At the end `gc` runs, and then nothing may be left that no manifest names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import seaweed
from botocore.exceptions import EndpointConnectionError

import qwenlong.tasks.s3.client
from qwenlong.tasks.s3.store import S3Store
from qwenlong_core.settings.running import S3Settings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, Manifest, describe
from qwenlong_core.store.contents import read_contents
from qwenlong_core.store.files import MANIFEST, files_below
from qwenlong_core.store.garbage import Rules, plan
from qwenlong_core.store.protocol import refs_in

MIB = 1024**2
READ_SECONDS = 3.0
BROKEN_BY_PROXY = {
    "reset": 0.25,
    "lost reply": 0.25,
    "timeout": 0.12,
    "500": 0.25,
    "503": 0.25,
    "cut request": 0.25,
    "cut response": 0.25,
    "flipped request": 0.25,
    "flipped response": 0.25,
}
"""Kind of fault and the share of requests it hits."""
KILLED, TWO, REFUSED = "writer killed -9", "two writers at once", "refused"
KINDS = (*BROKEN_BY_PROXY, KILLED, TWO, REFUSED)
COLUMNS = (
    "injected",
    "published",
    "publish gave up",
    "fetched",
    "fetch refused",
    "wrong bytes",
    "half-written read as whole",
)


def mitmdump() -> str | None:
    """The proxy's program: ``MITMDUMP``, or on PATH."""
    return os.environ.get("MITMDUMP") or shutil.which("mitmdump")


class Proxy:
    """mitmproxy with the fault addon in front of a server."""

    def __init__(self, target: str, folder: Path) -> None:
        self.target, self.plan, self.log = target, folder / "plan.json", folder / "faults.jsonl"
        self.port = seaweed._free_ports(1)[0]
        self._output = folder / "mitmdump.log"
        self.break_with(None)
        self.log.touch()

    def start(self) -> Proxy:
        program = mitmdump()
        assert program, "no `mitmdump`: make test-s3 installs it"
        options = ["--mode", f"reverse:{self.target}", "--listen-host", "127.0.0.1", "-p", str(self.port)]
        options += ["--set", "keep_host_header=true", "-s", str(Path(__file__).with_name("fault_proxy.py"))]
        variables = {"FAULT_PLAN": str(self.plan), "FAULT_LOG": str(self.log)}
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with self._output.open("ab") as output:
                self._process = subprocess.Popen(
                    [program, "-q", *options], env=clean | variables, stdout=output, stderr=output
                )
            # It may end at once: a client that tried to connect while it was away can hold its port for a moment.
            while self._process.poll() is None and time.monotonic() < deadline:
                if self._answers():
                    return self
                time.sleep(0.1)
        raise RuntimeError(f"the proxy did not start, see {self._output}")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def break_with(self, kind: str | None) -> None:
        fresh = self.plan.with_suffix(".new")
        fresh.write_text(json.dumps({"kind": kind, "share": BROKEN_BY_PROXY.get(kind or "", 0.0)}))
        fresh.replace(self.plan)

    def injected(self, kind: str) -> int:
        return sum(json.loads(line)["kind"] == kind for line in self.log.read_text().splitlines())


class Trial:
    """One server, one proxy, and the counts."""

    def __init__(self, folder: Path, server: seaweed.SeaweedFS, bucket: str) -> None:
        self.folder, self.uri = folder, f"s3://{bucket}/project"
        self.proxy = Proxy(server.endpoint, folder).start()
        self.direct = self.store(server.endpoint, "direct")
        self.counts: dict[str, Counter[str]] = {}
        self.refusals: list[int] = []
        """One for every connection that was refused."""
        self._names = iter(range(10**9))
        self._random = random.Random(11)

    @property
    def broken(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    def store(self, endpoint: str, name: str) -> S3Store:
        s3 = S3Settings(endpoint_url=endpoint, part_bytes=5 * MIB, max_concurrency=4)
        store = S3Store(self.uri, s3, self.folder / f"cache-{name}")
        store.client.meta.events.register("needs-retry.s3", self._count_refusal)
        return store

    def _count_refusal(self, caught_exception: Exception | None, **_: Any) -> None:
        if isinstance(caught_exception, EndpointConnectionError):
            self.refusals.append(1)

    def output(self) -> tuple[Path, Manifest]:
        """A stage's output: a file in two parts, small ones, a note."""
        folder = self.folder / f"out-{next(self._names)}"
        (folder / "sub").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(os.urandom(6 * MIB))
        (folder / "sub" / "config.json").write_text(folder.name)
        (folder / "metrics.jsonl").write_text(json.dumps({"at": time.time()}))
        return folder, describe(folder, "model", parents={}, settings_digest="s", code_digest="c")

    def check(self, counts: Counter[str], ref: ArtifactRef) -> None:
        """Without the proxy: what counts as whole must be whole."""
        if self.direct.manifest(ref) is not None:
            counts["half-written read as whole"] += bool(self.direct.damage(ref))

    def publish(self, counts: Counter[str], store: S3Store, folder: Path, manifest: Manifest) -> bool:
        try:
            ref = store.publish(folder, manifest)
        except (ArtifactError, ConnectionError):
            counts["publish gave up"] += 1
            return False
        finally:
            self.check(counts, self.direct._ref(manifest))
        assert ref.sha256 == manifest.digest
        counts["published"] += 1
        return True

    def fetch(self, counts: Counter[str], store: S3Store, manifest: Manifest, folder: Path) -> None:
        shutil.rmtree(store.cache.root, ignore_errors=True)
        try:
            found = store.fetch(self.direct._ref(manifest))
        except (ArtifactError, ConnectionError):
            counts["fetch refused"] += 1
            return
        counts["fetched"] += 1
        counts["wrong bytes"] += not _same(found, folder)

    def one(self, kind: str, store: S3Store) -> None:
        """Publish one artifact and fetch it."""
        counts = self.counts[kind]
        folder, manifest = self.output()
        if self.publish(counts, store, folder, manifest):
            self.fetch(counts, store, manifest, folder)
        shutil.rmtree(folder)

    def until(self, kind: str, each: int, done: Any, act: Any) -> None:
        """Four workers act until enough faults have been injected."""
        self.counts[kind] = Counter()
        stores = [self.store(self.broken, f"{kind}-{number}".replace(" ", "-")) for number in range(4)]

        def work(store: S3Store) -> None:
            while done() < each:
                act(kind, store)

        with ThreadPoolExecutor(len(stores)) as pool:
            for job in [pool.submit(work, store) for store in stores]:
                job.result()
        self.counts[kind]["injected"] = done()
        print(kind, dict(self.counts[kind]), file=sys.stderr, flush=True)

    def broken_by_proxy(self, kind: str, each: int) -> None:
        self.proxy.break_with(kind)
        self.until(kind, each, lambda: self.proxy.injected(kind), self.one)
        self.proxy.break_with(None)

    def refused(self, each: int) -> None:
        """The proxy is killed while transfers run: those under way break, and connections are refused until it
        is back."""
        over = threading.Event()

        def strike() -> None:
            while not over.wait(self._random.uniform(1.0, 2.0)):
                self.proxy.kill()
                over.wait(self._random.uniform(0.5, 1.5))
                self.proxy.start()

        with ThreadPoolExecutor(1) as pool:
            strikes = pool.submit(strike)
            try:
                self.until(REFUSED, each, lambda: len(self.refusals), self.one)
            finally:
                over.set()
            strikes.result()

    def killed_writers(self, kills: int) -> None:
        """A writer is killed with SIGKILL during its upload; then another publishes the same artifact."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["qwenlong.tasks.s3.store"])
        killed = [0]

        def act(kind: str, store: S3Store) -> None:
            counts = self.counts[kind]
            folder, manifest = self.output()
            begun = context.Event()
            writer = context.Process(target=_write, args=(self.uri, store.s3, folder, manifest, begun))
            writer.start()
            begun.wait(60)
            time.sleep(self._random.uniform(0.0, 0.6))
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
            killed[0] += 1
            self.check(counts, self.direct._ref(manifest))
            if self.publish(counts, store, folder, manifest):
                self.fetch(counts, store, manifest, folder)
            shutil.rmtree(folder)

        self.until(KILLED, kills, lambda: killed[0], act)

    def two_writers(self, pairs: int) -> None:
        """Two writers of one artifact at once, with different notes, while replies are lost."""
        met = [0]

        def act(kind: str, store: S3Store) -> None:
            counts = self.counts[kind]
            folder, manifest = self.output()
            other = self.folder / f"{folder.name}-other"
            shutil.copytree(folder, other)
            (other / "metrics.jsonl").write_text(json.dumps({"at": "another"}))
            second = describe(other, "model", parents={}, settings_digest="s", code_digest="c")
            assert second.digest == manifest.digest
            met[0] += 1
            with ThreadPoolExecutor(2) as pool:
                jobs = [
                    pool.submit(self.publish, counts, store, *each) for each in ((folder, manifest), (other, second))
                ]
            if any([job.result() for job in jobs]):
                self.fetch(counts, store, manifest, folder)
            shutil.rmtree(folder)
            shutil.rmtree(other)

        self.proxy.break_with("lost reply")
        self.until(TWO, pairs, lambda: met[0], act)
        self.proxy.break_with(None)

    def leftovers(self) -> tuple[int, list[str]]:
        """How many unfinished files `gc` deleted, and what is left that no manifest names."""
        contents = read_contents(self.direct)
        rules = Rules(datetime.now(UTC) + timedelta(days=2), keep=timedelta(days=30), grace=timedelta(hours=24))
        doomed = plan(contents.listing, contents.manifests, contents.records, set(), rules)
        for each in doomed:
            self.direct.remove(each.stored)
        named = {
            item.key.removeprefix(self.direct.prefix)
            for manifest in contents.manifests.values()
            for item in self.direct._items(manifest, Path())
        } | {f"artifacts/{ref.kind}/{ref.sha256}/{MANIFEST}" for ref in contents.refs}
        after = self.direct.listing()
        left = [stored.name for stored in after if stored.upload or stored.name not in named]
        damaged = [ref.short for ref in refs_in(after, self.uri) if self.direct.damage(ref)]
        return len(doomed), left + damaged


def _write(uri: str, s3: S3Settings, folder: Path, manifest: Manifest, begun: Any) -> None:
    store = S3Store(uri, s3, folder / "cache")
    assert store.abilities.create_only
    begun.set()
    store.publish(folder, manifest)
    time.sleep(60)


def _same(found: Path, folder: Path) -> bool:
    """Whether the content is as written; the notes may be another writer's."""

    def digests(root: Path) -> dict[str, str]:
        names = {path.relative_to(root).as_posix(): path for path in files_below(root)}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in names.items()
            if name != "metrics.jsonl"
        }

    return digests(found) == digests(folder)


def table(counts: dict[str, Counter[str]]) -> str:
    """The counts as a Markdown table."""
    rows = [["fault", *COLUMNS], ["-"] * (len(COLUMNS) + 1)]
    rows += [[kind, *(str(count[column]) for column in COLUMNS)] for kind, count in counts.items()]
    rows.append(["all", *(str(sum(count[column] for count in counts.values())) for column in COLUMNS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def run(
    folder: Path, server: seaweed.SeaweedFS, bucket: str, each: int, kinds: Collection[str] = KINDS
) -> tuple[Trial, int, list[str]]:
    """Faults of these kinds, ``each`` times; half as often kills and pairs of writers."""
    qwenlong.tasks.s3.client.READ_SECONDS = READ_SECONDS
    trial = Trial(folder, server, bucket)
    try:
        for kind in kinds:
            if kind in BROKEN_BY_PROXY:
                trial.broken_by_proxy(kind, each)
        if KILLED in kinds:
            trial.killed_writers(-(-each // 2))
        if TWO in kinds:
            trial.two_writers(-(-each // 2))
        if REFUSED in kinds:
            trial.refused(each)
        removed, left = trial.leftovers()
    finally:
        trial.proxy.kill()
    return trial, removed, left


def main() -> None:
    """Print the table; exit status 1 if anything wrong was accepted, or anything was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=110, help="faults of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    os.environ |= seaweed.VARIABLES
    folder = Path(tempfile.mkdtemp(prefix="s3-faults-"))
    server = seaweed.SeaweedFS(folder / "server").start()
    try:
        trial, removed, left = run(folder, server, server.make_bucket("faults"), options.each, options.kinds)
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
    print(table(trial.counts))
    print(
        f"\ngc removed {removed} unfinished objects and uploads; left that no manifest names, or damaged: {len(left)}"
    )
    bad = sum(count[column] for count in trial.counts.values() for column in COLUMNS[-2:])
    sys.exit(1 if bad or left else 0)


if __name__ == "__main__":
    main()
