"""The paper's seven benchmarks as their authors publish them: from the hub, from copies of it, and what is missing."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hub_server import hub
from published_copies import DOCMATH, FRAMES, KINDS, LONGBENCH, TASKS, write_copies

from qwenlong_core.data.collect import specs_of
from qwenlong_core.data.sources.read import from_copies, local_files, read_source
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.evaluation.benchmarks import PAPER, SPECS, benchmark_specs, read_benchmarks
from qwenlong_core.settings.data import DataSettings

FROM_THE_HUB = """
import json
from qwenlong_core.evaluation.benchmarks import benchmark_specs, read_benchmarks
rows = read_benchmarks(benchmark_specs(("paper",), ()), ())
print(json.dumps([[row.source, row.id, row.question, row.context, row.answers] for row in rows]))
"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copies(tmp_path_factory.mktemp("copies"), items=4)


def test_each_of_the_seven_is_read_through_the_hubs_client(copies: Path, tmp_path: Path) -> None:
    with hub(copies) as (url, asked):
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [source for source, *_ in found] == [name for name in PAPER for _ in range(4)]
    local = read_benchmarks(benchmark_specs(("paper",), ()), (), str(copies))
    assert found == [[row.source, row.id, row.question, row.context, list(row.answers)] for row in local]
    fetched = {path.partition("/resolve/main/")[2] for path in asked if "/resolve/" in path}
    assert fetched == {"test.jsonl", "data.zip", "docmath_all_test_200.jsonl", *(f"{k}_testmini.jsonl" for k in KINDS)}


def test_the_sources_of_a_profile_become_copies_only_for_the_evaluation(copies: Path) -> None:
    data = DataSettings(
        train=("frames:", "generated"), eval=(*(SPECS[name] for name in PAPER), "generated"), benchmarks_dir=str(copies)
    )
    assert specs_of(data, "train") == ("frames:", "generated")
    *places, last = specs_of(data, "eval")
    assert last == "generated"
    assert [place.partition(":")[2] for place in places] == [f"{copies}/{DOCMATH}", f"{copies}/{FRAMES}"] + [
        f"{copies}/{LONGBENCH}" for _ in TASKS
    ]
    assert local_files(places[-1]) == [copies / LONGBENCH / "data.zip"]  # not the loading script, nor another task


def test_docmath_asks_the_papers_questions_and_no_others(copies: Path, tmp_path: Path) -> None:
    rows = list(read_source(f"docmath-200:{copies}/{DOCMATH}"))
    assert [row.id for row in rows] == [f"docmath-{kind}-testmini-0" for kind in KINDS]
    whole = list(read_source(f"docmath:{copies}/{DOCMATH}"))
    assert len(whole) == 8 and not any(isinstance(row, Refused) for row in whole)
    alone = tmp_path / "complong_testmini.jsonl"
    alone.write_bytes((copies / DOCMATH / alone.name).read_bytes())
    (refused, _) = read_source(f"docmath-200:{alone}")
    assert "docmath_all_test_200.jsonl is missing" in str(refused)


def test_an_archive_may_lie_there_unpacked_or_be_named_itself(copies: Path, tmp_path: Path) -> None:
    archive = copies / LONGBENCH / "data.zip"
    expected = list(read_source(f"longbench-qasper:{archive}"))
    assert len(expected) == 4
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    for place in (tmp_path, tmp_path / "data", tmp_path / "data" / "qasper.jsonl"):
        assert list(read_source(f"longbench-qasper:{place}")) == expected


def test_a_task_of_another_name_and_a_damaged_archive_are_refused(copies: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(copies / LONGBENCH / "data.zip") as content:
        content.extract("data/hotpotqa.jsonl", tmp_path)
    refused = list(read_source(f"longbench-qasper:{tmp_path}/data/hotpotqa.jsonl"))
    assert len(refused) == 4 and "of LongBench's hotpotqa, not of its qasper" in str(refused[0])
    (tmp_path / "data.zip").write_bytes(b"PK cut")
    (bad,) = read_source(f"longbench-musique:{tmp_path}/data.zip")
    assert isinstance(bad, Refused) and "gives no data/musique.jsonl" in bad.reason
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as content:
        content.writestr("data/musique.jsonl", "{broken\n")
    (bad,) = read_source(f"longbench-musique:{tmp_path}/other.zip")
    assert isinstance(bad, Refused) and bad.file == f"{tmp_path}/other.zip/data/musique.jsonl"


@pytest.mark.parametrize("name", PAPER)
def test_a_missing_copy_says_which_file_to_fetch_and_where_to_put_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"hf download \S+ .* --repo-type dataset --local-dir ") as refused:
        from_copies(SPECS[name], tmp_path)
    assert str(tmp_path) in str(refused.value)
    with pytest.raises(ValueError, match=f"benchmark {name}: data source .* holds no"):
        read_benchmarks(benchmark_specs((name,), ()), (), str(tmp_path))


def test_half_a_copy_is_no_smaller_benchmark(tmp_path: Path) -> None:
    folder = write_copies(tmp_path, items=4)
    (folder / DOCMATH / "simplong_testmini.jsonl").unlink()
    with pytest.raises(ValueError, match=r"holds no simplong_testmini\.jsonl\."):
        from_copies("docmath-200:", folder)
    assert from_copies("docmath-200:elsewhere.jsonl", folder) == "docmath-200:elsewhere.jsonl"
