"""The named sources: what each one is, where to get it, and the function that reads its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from qwenlong_core.data.sources import benchmarks, docqa_rl, long, multihop, reading, uniform
from qwenlong_core.plugged import plugged, refused
from qwenlong_core.records import Example

Parse = Callable[[dict[str, Any], Path, int], Iterator[Example]]
"""``parse(record, file, number)`` yields the examples of one record, or raises ``BadRow`` with the reason."""
Role = Literal["train", "evaluation", "both"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One upstream format."""

    name: str
    parse: Parse
    role: Role
    domain: str
    size: str
    """As stated by its authors."""
    licence: str
    hub: str | None = None
    """Id of a data set repository on the Hugging Face hub."""
    files: tuple[str, ...] = ()
    """Patterns of the files in that repository. A folder that holds any of them is read for these alone."""
    member: str = ""
    """Of a zip archive among them: the file inside that is read. Unpacked, it is read in place of the archive."""
    beside: tuple[str, ...] = ()
    """Patterns of files beside a local file that its rows are completed from."""
    note: str = ""
    place: str = ""
    """Path of the rows that come with the source, such as a package's own files: read where no other is named."""


PAPER_TASKS = ("2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper")
"""The tasks of LongBench that the paper evaluates on."""

NOT_READ = ("generated", "ruler", "paper", "long", "all", "2wikimqa")
"""Names of what is made here, of suites and of benchmarks, which no source may take."""

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(name="jsonl", parse=uniform.parse, role="both", domain="any", size="yours", licence="yours",
               note="the uniform record; a plain path or glob means this source"),
        Source(name="docqa-rl", parse=docqa_rl.parse, role="train", domain="math, logical, multihop", size="1,591 rows",
               licence="Apache-2.0", hub="Tongyi-Zhiwen/DocQA-RL-1.6K", files=("train.parquet",)),
        Source(name="docmath", parse=benchmarks.parse_docmath, role="both", domain="math", size="800 rows (testmini)",
               licence="MIT", hub="Tongyi-Zhiwen/docmath", files=("*_testmini.jsonl",)),
        Source(name="docmath-200", parse=benchmarks.parse_docmath_selected, role="evaluation", domain="math",
               size="200 rows", licence="MIT", hub="Tongyi-Zhiwen/docmath",
               files=(*(f"{kind}_testmini.jsonl" for kind in benchmarks.DOCMATH_KINDS), benchmarks.DOCMATH_SELECTION),
               beside=(benchmarks.DOCMATH_SELECTION,),
               note="the 200 questions of the paper, of which DocQA-RL holds none"),
        Source(name="musique", parse=multihop.parse_musique, role="both", domain="multihop", size="2,417 rows (dev)",
               licence="CC-BY-4.0", hub="dgslibisey/MuSiQue", files=("musique_ans_v1.0_dev.jsonl",)),
        Source(name="multihoprag", parse=multihop.parse_multihoprag, role="both", domain="multihop", size="2,556 rows",
               licence="ODC-BY", hub="yixuantt/MultiHopRAG", files=("MultiHopRAG.json", "corpus.json"),
               beside=("corpus.json", "corpus.jsonl"),
               note="corpus.json beside the questions gives whole articles"),
        Source(name="frames", parse=benchmarks.parse_frames, role="evaluation", domain="multihop", size="824 rows",
               licence="Apache-2.0", hub="Tongyi-Zhiwen/frames", files=("test.jsonl",)),
        Source(name="2wikimultihopqa", parse=multihop.parse_2wiki, role="evaluation", domain="multihop",
               size="12,576 rows (dev)", licence="Apache-2.0",
               note="from github.com/Alab-NII/2wikimultihop: give its path"),
        Source(name="hotpotqa", parse=multihop.parse_hotpotqa, role="evaluation", domain="multihop",
               size="7,405 rows (validation)", licence="CC-BY-SA-4.0", hub="hotpotqa/hotpot_qa",
               files=("distractor/validation*.parquet",)),
        Source(name="narrativeqa", parse=reading.parse_narrativeqa, role="evaluation", domain="reading",
               size="10,557 rows (test)", licence="Apache-2.0", hub="deepmind/narrativeqa",
               files=("data/test-*.parquet",),
               beside=("tmp/*.content",), note="the official qaps.csv needs the stories in tmp/ beside it"),
        Source(name="qasper", parse=reading.parse_qasper, role="evaluation", domain="reading", size="416 papers (test)",
               licence="CC-BY-4.0",
               note="release JSON from allenai.org/data/qasper, or the hub's parquet: give its path"),
        Source(name="longbench", parse=benchmarks.parse_longbench, role="evaluation", domain="multihop, reading",
               size="200 rows a task", licence="MIT",
               note="data.zip of the hub's THUDM/LongBench: unpack it, give its path"),
        *(Source(name=f"longbench-{task}", parse=partial(benchmarks.parse_longbench, only=task), role="evaluation",
                 domain=benchmarks.LONGBENCH[task], size="200 rows", licence="MIT", hub="THUDM/LongBench",
                 files=("data.zip",), member=f"data/{task}.jsonl", note="the 200 questions of the paper")
          for task in PAPER_TASKS),
        Source(name="longbench-v2", parse=benchmarks.parse_longbench_v2, role="evaluation", domain="reading",
               size="503 rows", licence="Apache-2.0", hub="THUDM/LongBench-v2", files=("data.json",)),
        Source(name="mrcr", parse=long.parse_mrcr, role="evaluation", domain="reading", size="2,400 rows",
               licence="MIT", hub="openai/mrcr", files=("*needle/*.parquet",),
               note="2, 4 and 8 needles; mrcr:FILE reads one of them"),
        Source(name="aa-lcr", parse=long.parse_aa_lcr, role="evaluation", domain="reading", size="100 rows",
               licence="Apache-2.0",
               hub="ArtificialAnalysis/AA-LCR@bdae010bbce259820c0e34c1d7cce210d966fb75",
               files=("AA-LCR_Dataset.csv", long.AA_LCR_ARCHIVE), beside=(long.AA_LCR_ARCHIVE,),
               note="version 1.0, the one of the judge and the numbers that were published until September 2026"),
        Source(name="corpusqa", parse=long.parse_corpusqa, role="evaluation", domain="reading", size="329 rows",
               licence="MIT", hub="Tongyi-Zhiwen/CorpusQA", files=("128k_4domains.jsonl",),
               note="the set of 128K; corpusqa:FILE reads that of 1M"),
    )
}  # fmt: skip


@functools.cache
def sources() -> dict[str, Source]:
    """All sources by name: the tree's own, then those of other distributions (entry points ``qwenlong.sources``).

    Raises:
        ValueError: one of another distribution cannot be used.
    """
    others = plugged("sources", Source, (*SOURCES, *NOT_READ))
    for name, source in others.items():
        if source.name != name:
            raise refused("sources", name, f"calls itself {source.name!r}")
        if source.role not in get_args(Role):
            raise refused("sources", name, f"has the role {source.role!r}, not one of {', '.join(get_args(Role))}")
    return SOURCES | others


def benchmarks_from_outside() -> dict[str, str]:
    """The sources of other distributions that hold evaluation rows, each with its spec: they are benchmarks by name."""
    return {name: f"{name}:" for name, source in sources().items() if name not in SOURCES and source.role != "train"}
