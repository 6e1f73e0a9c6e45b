"""What another distribution adds: CONTRIBUTING.md's, installed and run as it stands there, and ones with faults."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import outside_distribution as outside
import pytest
from stage_interpreters import with_our_libraries

from qwenlong_core.data.ruler.copies import RULER
from qwenlong_core.data.sources.catalogue import NOT_READ, SOURCES
from qwenlong_core.data.sources.read import GENERATED
from qwenlong_core.evaluation.benchmarks import SPECS, SUITES
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.interpreter import installed_in
from qwenlong_core.store.fingerprint import ROOT

OWN_MODEL = """
import sys
from pathlib import Path
from letters.model import LettersConfig, LettersForCausalLM
from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.models import import_base, tiny_policy
from qwenlong_core.settings.model import ModelSettings

made, folder = Path("made"), Path("MODEL")
tokenizer = bundled_tokenizer()
tiny = tiny_policy(tokenizer)
sizes = {name: value for name, value in tiny.config.to_dict().items() if name not in ("model_type", "architectures")}
model = LettersForCausalLM(LettersConfig(**sizes))
model.load_state_dict(tiny.state_dict())
model.save_pretrained(made)
tokenizer.save_pretrained(made)
import_base(ModelSettings(name=str(made)), folder)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The page's distribution, installed, and the folder with its files."""
    folder = outside.write(tmp_path_factory.mktemp("letters"), outside.files())
    return outside.install(folder, tmp_path_factory.mktemp("site")), folder


@pytest.fixture(scope="module")
def model(place):
    """The folder MODEL, of the family that the page adds."""
    site, folder = place
    done = outside.run(site, folder, "-c", OWN_MODEL)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "MODEL/config.json").read_text())["model_type"] == "letters-lm"
    return folder / "MODEL"


def of_the_page(heading, place, *more):
    """Run the page's commands under a heading; what each wrote."""
    site, folder = place
    written = []
    for command in outside.commands()[f"{heading}, from outside"]:
        program, *arguments = command.split()
        assert program == "qwenlong"
        done = outside.qwenlong(site, folder, *arguments, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        written.append(done.stdout)
    return written


def test_each_addition_takes_less_than_a_page():
    sections = outside.section().split("\n### ")
    assert len(sections) == 5
    assert max(len(section.splitlines()) for section in sections) <= 60


def test_a_source_is_listed_and_its_rows_are_prepared(place):
    listed, prepared = of_the_page("a data source", place)
    assert re.search(r"^ *letters +both +reading", listed, re.MULTILINE)
    assert "2 rows on 2 documents kept of 2 read" in prepared
    card = json.loads((place[1] / "prepared/summary.json").read_text())
    assert card["splits"]["train"]["answer_types"] == {"date": 2}


def test_an_answer_type_is_scored(place):
    [scored] = of_the_page("an answer type", place)
    rows = [json.loads(line) for line in scored.splitlines()]
    assert [row["value"] for row in rows] == [1.0, 0.0, 0.0]
    assert rows[0]["reason"] == "'1914-07-28' equals gold '28 July 1914'"


def test_a_benchmark_is_evaluated_with_a_model_of_another_family(place, model):
    small = ["evaluation.max_completion_tokens=8", "evaluation.bootstrap_resamples=200"]
    [said] = of_the_page("a benchmark", place, *(word for setting in small for word in ("--set", setting)), "--json")
    result = json.loads(said)
    assert set(result["scores"]["sources"]) == {"letters-quiz"}
    assert result["scores"]["sources"]["letters-quiz"]["items"] == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_pipeline_trains_such_a_model_on_such_rows_and_evaluates_such_a_benchmark(place, model):
    folder = place[1]
    rows = [json.loads(line) for line in (folder / "letters.jsonl").read_text().splitlines()]
    texts = [f"{rows[0]['text']} This is letter {n} of many. {'So be it. ' * n}" for n in range(20)]
    more = [{**rows[0], "text": text} for text in texts]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    given = [
        "data.train=['generated','letters:more.jsonl']",
        "data.eval=['generated','letters-quiz:']",
        "sft.epochs=2",
    ]
    [said] = of_the_page("a model family", place, *(word for setting in given for word in ("--set", setting)), "--json")
    places = {stage["stage"]: Path(stage["uri"].removeprefix("file://")) for stage in json.loads(said)["stages"]}
    assert json.loads((places["prepare"] / "summary.json").read_text())["splits"]["train"]["answer_types"]["date"] == 20
    assert read_evaluation(places["evaluate-grpo-3"]).scores.sources["letters-quiz"].items == 2


DIGESTS = """
import json
from qwenlong_core.store.fingerprint import code_digest
stages = ("models", "data.prepare", "training.sft", "training.grpo", "evaluation.runner", "report.build")
print(json.dumps({stage: code_digest((f"qwenlong_core.{stage}",)) for stage in stages}))
"""


def digests(site):
    done = outside.run(site, ROOT, "-c", DIGESTS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def changed(one, other):
    return {stage for stage in one if one[stage] != other[stage]}


NOTHING = {"mine.py": "import numpy\nTHING = 1\n"}
ALL = {"models", "data.prepare", "training.sft", "training.grpo", "evaluation.runner"}


@pytest.fixture(scope="module")
def alone():
    return digests(None)


@pytest.mark.parametrize(
    ("group", "stages"),
    [
        ("sources", {"data.prepare"}),
        ("answer_types", ALL | {"report.build"}),  # whatever can write a prompt
        ("scorers", ALL - {"models", "training.sft"}),
        ("models", ALL),
        ("unknown", set()),
    ],
)
def test_an_addition_counts_in_the_stages_that_can_use_it(group, stages, alone, tmp_path):
    site = outside.by_hand(tmp_path, "mine", NOTHING, **{group: {"thing": "mine:THING"}})
    with_it = digests(site)
    assert changed(alone, with_it) == stages
    (site / "mine.py").write_text("import numpy\nTHING = 2\n")
    assert changed(with_it, digests(site)) == stages


def test_helpers_rows_and_versions_count_too_and_no_path_does(tmp_path):
    modules = {"mine/__init__.py": "", "mine/rows.py": "from mine import words\n", "mine/words.py": "", "other.py": ""}
    point = {"sources": {"thing": "mine.rows:THING"}}
    before = digests(outside.by_hand(tmp_path / "one", "mine", modules, **point))
    assert digests(outside.by_hand(tmp_path / "two", "mine", modules, **point)) == before
    for name in ("mine/words.py", "other.py", "mine/rows.jsonl"):
        (tmp_path / "two" / name).write_text("X = 1\n")
        after = digests(tmp_path / "two")
        assert changed(before, after) == {"data.prepare"}, name
        before = after
    about = tmp_path / "two/mine-1.0.dist-info/METADATA"
    about.write_text(about.read_text().replace("Version: 1.0", "Version: 1.1"))
    assert changed(before, digests(tmp_path / "two")) == {"data.prepare"}


def test_what_an_addition_imports_of_qwenlong_is_part_of_the_code(tmp_path):
    site = outside.by_hand(tmp_path, "mine", {"mine.py": "THING = 1\n"}, sources={"thing": "mine:THING"})
    code = "from qwenlong_core.interpreter import installed_in as i; from qwenlong_core.store import fingerprint as f; "
    code += "print(*f._with_plugs(('qwenlong_core.data.prepare',), f.ROOT, i(None))[0])"
    assert "qwenlong_core.exchange.table" not in outside.run(site, ROOT, "-c", code).stdout.split()
    (site / "mine.py").write_text("from qwenlong_core.exchange.table import x\nTHING = 1\n")
    assert "qwenlong_core.exchange.table" in outside.run(site, ROOT, "-c", code).stdout.split()


FAULTS = {
    "not there": ("sources", "mine", "nowhere:X", "", r"cannot be imported \(ModuleNotFoundError: No module named"),
    "broken": ("models", "mine", "mine:f", "1 / 0", r"cannot be imported \(ZeroDivisionError"),
    "another kind": ("answer_types", "mine", "mine:f", "f = len", "is builtin_function_or_method, not AnswerRule"),
    "no function": ("scorers", "mine", "mine:f", "f = 1", "is int, not Callable"),
    "a type's name": ("answer_types", "number", "mine:f", "f = 1", "takes a name that qwenlong has already"),
    "a source's name": ("sources", "musique", "mine:f", "f = 1", "takes a name that qwenlong has already"),
    "a benchmark's name": ("sources", "2wikimqa", "mine:f", "f = 1", "takes a name that qwenlong has already"),
    "no name": ("sources", "a:b c", "mine:f", "f = 1", "has a name of other signs"),
    "a failing family": ("models", "mine", "mine:f", "def f(): raise OSError('no')", "raised OSError: no"),
    "transformers' own": (
        "models",
        "mine",
        "mine:f",
        "def f():\n from transformers import AutoConfig, LlamaConfig\n AutoConfig.register('llama', LlamaConfig)",
        "raised ValueError: .*already used",
    ),
    "another name": (
        "sources",
        "mine",
        "mine:f",
        "from qwenlong_core import Source\n"
        "f = Source(name='yours', parse=len, role='both', domain='math', size='', licence='')",
        "calls itself 'yours'",
    ),
    "no role": (
        "sources",
        "mine",
        "mine:f",
        "from qwenlong_core import Source\n"
        "f = Source(name='mine', parse=len, role='test', domain='math', size='', licence='')",
        "has the role 'test', not one of train, evaluation, both",
    ),
}


@pytest.mark.parametrize(("group", "name", "target", "code", "why"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_is_refused_with_its_distribution(group, name, target, code, why, tmp_path):
    site = outside.by_hand(tmp_path, "my-own", {"mine.py": code}, **{group: {name: target}})
    done = outside.run(site, tmp_path, "-c", "from qwenlong_core.plugged import require_plugged\nrequire_plugged()")
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ValueError: {name} = {target!r} in the entry points qwenlong.{group} of my-own 1.0 ")
    assert re.search(why, message) and message.endswith("mend that distribution, or uninstall it")


def test_two_distributions_cannot_take_one_name(tmp_path):
    for name in ("first", "second"):
        outside.by_hand(tmp_path, name, {f"{name}.py": ""}, scorers={"mine": f"{name}:f"})
    done = outside.run(tmp_path, tmp_path, "-c", "from qwenlong_core.plugged import entries\nentries('scorers')")
    assert re.search(r"takes a name that (first|second) 1\.0 has already", done.stderr)


def test_the_console_refuses_a_fault_in_one_line_and_starts_without_looking(tmp_path):
    site = outside.by_hand(tmp_path, "my-own", {"mine.py": "1 / 0"}, sources={"mine": "mine:f"})
    done = outside.qwenlong(site, tmp_path, "sources")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: mine = 'mine:f' in the entry points qwenlong.sources of my-own 1.0 cannot be")
    assert outside.qwenlong(site, tmp_path, "--help").returncode == 0


def test_the_interpreter_of_the_stages_must_have_the_same_additions(tmp_path):
    site = outside.by_hand(tmp_path / "site", "my-own", NOTHING, sources={"thing": "mine:THING"})
    python = str(with_our_libraries(tmp_path / "venv", site))
    with pytest.raises(ValueError, match=r"python=.* differ .*my-own 1\.0: thing in qwenlong\.sources.*in both"):
        installed_in(python)


def test_no_source_can_take_the_name_of_a_benchmark_or_a_suite():
    assert {*SPECS, *SUITES, GENERATED, RULER} <= {*SOURCES, *NOT_READ}


def test_configs_tokenizers_and_weights_are_loaded_where_families_are_known():
    found = set()
    for path in [path for folder in ("flows", "tasks", "qwenlong_core") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "transformers":
                found |= {path.relative_to(ROOT).as_posix() for alias in node.names if alias.name.startswith("Auto")}
    assert found == {"qwenlong_core/auto.py"}
