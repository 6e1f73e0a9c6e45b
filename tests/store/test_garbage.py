"""What may be deleted from a store, on hand-made listings: each rule alone, and what must never be deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from qwenlong_core.store.artifacts import ArtifactRef, Manifest
from qwenlong_core.store.files import MANIFEST, FileEntry
from qwenlong_core.store.garbage import Rules, plan
from qwenlong_core.store.protocol import StageRecord, Stored

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULES = Rules(NOW, keep=timedelta(days=30), grace=timedelta(hours=24))


class World:
    """A store as a listing, with ages in days."""

    def __init__(self) -> None:
        self.listing: list[Stored] = []
        self.manifests: dict[str, Manifest] = {}
        self.records: dict[str, StageRecord | None] = {}
        self.pinned: set[str] = set()

    def file(self, name: str, age: float, upload: str | None = None) -> str:
        self.listing.append(Stored(name, 1, NOW - timedelta(days=age), upload))
        return name

    def artifact(self, name: str, age: float, **parents: str) -> str:
        files = {name: FileEntry(sha256="ab", size=1), "metrics.jsonl": FileEntry(sha256="cd", size=1)}
        created = (NOW - timedelta(days=age)).isoformat()
        manifest = Manifest(
            kind="model", files=files, parents=parents, settings_digest="s", code_digest="c", created_at=created
        )
        self.manifests[manifest.digest] = manifest
        for file in (name, ".notes/cd/metrics.jsonl", MANIFEST):
            self.file(f"artifacts/model/{manifest.digest}/{file}", age)
        return manifest.digest

    def record(self, stage: str, digest: str, age: float, profile: str = "p") -> str:
        ref = ArtifactRef(kind="model", uri="u", sha256=digest)
        created = (NOW - timedelta(days=age)).isoformat()
        name = self.file(f"stages/{stage}/{len(self.records)}.json", age)
        self.records[name] = StageRecord(
            stage=stage, fingerprint="f", ref=ref, profile=profile, settings={}, created_at=created
        )
        return name

    def doomed(self) -> set[str]:
        return {d.stored.name for d in plan(self.listing, self.manifests, self.records, self.pinned, RULES)}

    def gone(self, digest: str) -> bool:
        """Whether an artifact is deleted: then all of it, and its manifest before the rest."""
        names = {s.name for s in self.listing if f"/{digest}/" in s.name}
        doomed = [d.stored.name for d in plan(self.listing, self.manifests, self.records, self.pinned, RULES)]
        going = [name for name in doomed if name in names]
        assert set(going) in (set(), names)
        assert not going or going[0].endswith(MANIFEST)
        return bool(going)


def test_an_old_artifact_goes_unless_something_needs_it():
    world = World()
    lost, young = world.artifact("lost", 40), world.artifact("young", 20)
    registered, recorded = world.artifact("registered", 400), world.artifact("recorded", 400)
    world.pinned = {registered}
    world.record("sft", recorded, 400)
    assert world.gone(lost)
    assert not any(world.gone(digest) for digest in (young, registered, recorded))


def test_every_ancestor_of_what_is_kept_stays():
    world = World()
    data = world.artifact("data", 400)
    sft = world.artifact("sft", 300, data=data)
    grpo = world.artifact("grpo", 200, model=sft)
    aside = world.artifact("aside", 200, model=sft)
    world.pinned = {grpo}
    assert world.gone(aside) and not any(world.gone(digest) for digest in (data, sft, grpo))


def test_the_newest_record_of_a_stage_and_profile_is_kept_and_older_ones_go_with_their_artifacts():
    world = World()
    digests = [world.artifact(name, 100) for name in ("first", "second", "other")]
    old = world.record("sft", digests[0], 90)
    newest = world.record("sft", digests[1], 60)
    other = world.record("sft", digests[2], 95, profile="q")
    assert world.gone(digests[0]) and not world.gone(digests[1]) and not world.gone(digests[2])
    assert old in world.doomed() and not world.doomed() & {newest, other}


def test_an_old_record_stays_while_its_artifact_is_needed_otherwise():
    world = World()
    digest, newer = world.artifact("registered", 100), world.artifact("newer", 90)
    old = world.record("sft", digest, 100)
    world.record("sft", newer, 90)
    world.pinned = {digest}
    assert old not in world.doomed()


def test_unfinished_things_go_after_the_grace_time_only():
    world = World()
    for age in (0.5, 2):
        world.file(f"artifacts/model/unfinished{age}/part", age)
        world.file(f"artifacts/model/upload{age}/part", age, upload="u")
        world.file(f".probe/{age}", age)
        world.file(f"artifacts/model/.tmp-{age}/weights", age)
        world.file(f"stages/sft/.tmp-{age}", age)
    assert len(world.doomed()) == 5 and all("2" in name for name in world.doomed())


def test_an_upload_goes_as_a_whole_once_its_newest_file_is_old():
    world = World()
    world.file("artifacts/model/x/first", 3)
    world.file("artifacts/model/x/second", 0.5)
    assert not world.doomed()


def test_the_notes_of_a_second_writer_go_and_the_manifests_own_stay():
    world = World()
    digest = world.artifact("kept", 10)
    stray = world.file(f"artifacts/model/{digest}/.notes/ef/metrics.jsonl", 10)
    assert world.doomed() == {stray}


def test_a_needed_artifact_stays_also_when_its_manifest_cannot_be_read():
    world = World()
    digest = world.artifact("kept", 400)
    del world.manifests[digest]
    world.pinned = {digest}
    assert not world.doomed()


def test_claims_and_what_is_not_ours_are_never_touched():
    world = World()
    world.file("claims/champion/m/1", 4000)
    world.file("somebody/elses.file", 4000)
    assert not world.doomed()


def test_a_record_whose_artifact_is_gone_goes_by_age():
    world = World()
    for age in (40, 20):
        world.records[world.file(f"stages/sft/{age}.json", age)] = None
    assert world.doomed() == {"stages/sft/40.json"}
