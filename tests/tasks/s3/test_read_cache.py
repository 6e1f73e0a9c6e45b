"""The read cache evicts the least recently read copies, and never one that a running process reads."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import qwenlong.tasks.s3.read_cache
from qwenlong.tasks.s3.read_cache import ReadCache
from qwenlong.tasks.s3.store import S3Store
from qwenlong_core.settings.running import S3Settings
from qwenlong_core.store.artifacts import ArtifactRef, Manifest, describe

KB = 1000


def output(root: Path, name: str) -> tuple[Path, Manifest]:
    """A stage's output of 100 kB."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(name.encode() * (100 * KB // len(name)))
    return folder, describe(folder, "model", parents={}, settings_digest="s", code_digest="c")


def read(cache: ReadCache, root: Path, name: str, at: float) -> Path:
    """Admit an artifact as the store does, as if read at an earlier time; this process then releases it."""
    folder, manifest = output(root, name)
    ref = cache._ref(manifest)
    cache.hold(ref)
    cache.make_room(100 * KB)
    cache.publish(folder, manifest)
    fetched = cache.fetch(ref)
    let_go(cache, ref, at)
    return fetched


def let_go(cache: ReadCache, ref: ArtifactRef, at: float) -> None:
    """As if the process had ended."""
    lease = cache._lease(ref.kind, ref.sha256)
    qwenlong.tasks.s3.read_cache._HELD.pop(lease).close()
    os.utime(lease, (at, at))


def test_the_copies_read_longest_ago_go_when_the_limit_is_met(tmp_path):
    cache = ReadCache(tmp_path / "cache", limit=350 * KB)
    folders = {name: read(cache, tmp_path, name, at) for name, at in [("aa", 3), ("bb", 1), ("cc", 2)]}
    assert all(folder.is_dir() for folder in folders.values())
    for name, at, gone in [("dd", 5, {"bb"}), ("ee", 4, {"bb", "cc"}), ("ff", 6, {"bb", "cc", "aa"})]:
        folders[name] = read(cache, tmp_path, name, at)
        assert {name for name, folder in folders.items() if not folder.is_dir()} == gone


def test_reading_again_makes_a_copy_young(tmp_path):
    cache = ReadCache(tmp_path / "cache", limit=250 * KB)
    first, second = (read(cache, tmp_path, name, at) for name, at in [("aa", 1), ("bb", 2)])
    ref = ArtifactRef(kind="model", uri="", sha256=first.name)
    cache.hold(ref)
    let_go(cache, ref, at=3)
    read(cache, tmp_path, "cc", 4)
    assert first.is_dir() and not second.exists()


def test_without_a_limit_the_disk_is_the_limit(tmp_path):
    cache = ReadCache(tmp_path / "cache", limit=None)
    folder = read(cache, tmp_path, "aa", 1)
    with pytest.raises(OSError, match=r"storage\.cache_dir has .* GB free and 1000000000\.00 GB are to be read"):
        cache.make_room(10**18)
    assert not folder.exists(), "it was asked for as much room as possible"


@pytest.fixture
def small_disk(monkeypatch):
    """Makes the cache see a disk of this many bytes with nothing else on it."""

    def of(cache: ReadCache, total: int) -> None:
        def usage(root: Path) -> SimpleNamespace:
            used = sum(path.stat().st_size for path in (cache.root / "artifacts").rglob("*.safetensors"))
            return SimpleNamespace(total=total, used=used, free=total - used)

        monkeypatch.setattr(qwenlong.tasks.s3.read_cache.shutil, "disk_usage", usage)

    return of


@pytest.mark.parametrize(
    ("limit", "total", "kept"),
    [
        (None, 350 * KB, {"bb", "cc", "dd"}),  # 315 kB may be used
        (None, 450 * KB, {"aa", "bb", "cc", "dd"}),
        (10**9, 450 * KB, {"aa", "bb", "cc", "dd"}),  # the limit is the user's, and the disk's end
        (10**9, 250 * KB, {"cc", "dd"}),
    ],
)
def test_a_full_disk_keeps_what_fits(tmp_path, small_disk, limit, total, kept):
    cache = ReadCache(tmp_path / "cache", limit)
    small_disk(cache, total)
    folders = {name: read(cache, tmp_path, name, at) for at, name in enumerate(["aa", "bb", "cc", "dd"])}
    assert {name for name, folder in folders.items() if folder.is_dir()} == kept


def hold_until(root: Path, ref: ArtifactRef, held, over) -> None:
    ReadCache(root, None).hold(ref)
    held.set()
    over.wait(60)


def test_what_another_process_reads_stays_until_it_ends(tmp_path):
    cache = ReadCache(tmp_path / "cache", limit=150 * KB)
    folder = read(cache, tmp_path, "aa", 1)
    context = multiprocessing.get_context("spawn")
    held, over = context.Event(), context.Event()
    ref = ArtifactRef(kind="model", uri="", sha256=folder.name)
    reader = context.Process(target=hold_until, args=(cache.root, ref, held, over))
    reader.start()
    assert held.wait(60)
    second = read(cache, tmp_path, "bb", 2)
    assert folder.is_dir() and second.is_dir()
    reader.kill()  # -9: the system lets go of its locks
    reader.join()
    read(cache, tmp_path, "cc", 3)
    assert not folder.exists() and not second.exists()


def test_remains_of_interrupted_processes_go_after_a_day(tmp_path):
    cache = ReadCache(tmp_path / "cache", limit=None)
    kept, left = (cache.root / "artifacts" / "model" / f".tmp-{name}" for name in ("young", "old"))
    for folder in (kept, left):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"half")
    two_days_ago = time.time() - 2 * 86_400
    for path in (left / "weights", left):
        os.utime(path, (two_days_ago, two_days_ago))
    cache.make_room(1)
    assert kept.is_dir() and not left.exists()


def read_all(store: tuple, refs: list[ArtifactRef], seed: int, said) -> None:
    cached = S3Store(*store)
    random.Random(seed).shuffle(refs)
    said.put({ref.sha256: (cached.fetch(ref) / "model.safetensors").read_bytes()[:2] for ref in refs})


def test_several_processes_read_through_one_cache_that_is_too_small(tmp_path, bucket, s3_server):
    s3 = S3Settings(endpoint_url=s3_server.endpoint)
    names = ["aa", "bb", "cc", "dd", "ee"]
    store = S3Store(f"s3://{bucket}/project", s3, tmp_path / "unused")
    refs = [store.publish(*output(tmp_path, name)) for name in names]
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    arguments = (store.uri, s3, tmp_path / "cache", 120 * KB)
    readers = [context.Process(target=read_all, args=(arguments, refs, seed, said)) for seed in range(4)]
    for reader in readers:
        reader.start()
    answers = [said.get(timeout=120) for _ in readers]
    for reader in readers:
        reader.join()
    assert answers == [{ref.sha256: name.encode() for ref, name in zip(refs, names)}] * 4
    cache = tmp_path / "cache" / "artifacts" / "model"
    assert not list(cache.glob(".*")), "no partial copy is left"
    last = S3Store(*arguments)
    last.fetch(refs[0])
    last.cache.make_room(100 * KB)
    assert [path.name for path in cache.iterdir()] == [refs[0].sha256], "no process holds the others any more"
