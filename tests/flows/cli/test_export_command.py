"""``qwenlong export``: what is written loads in transformers, and its card says where it came from."""

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong_core.jobs import BaseJob, SFTJob
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.settings.training import SFTSettings
from qwenlong_core.store.artifacts import describe
from qwenlong_core.store.files import digest_file
from qwenlong_core.store.local import LocalStore


@pytest.fixture
def export(tmp_path) -> Callable:
    def call(*arguments):
        options = ["--set", f"storage.uri={tmp_path}/store", "--set", f"tracking.uri=sqlite:///{tmp_path}/m.db"]
        return CliRunner().invoke(app, ["export", *map(str, arguments), *options])

    return call


@pytest.fixture
def trained(tmp_path):
    """A base, its data and an SFT model in a store, as the stages publish them."""
    from qwenlong_core.models import import_base

    store = LocalStore(tmp_path / "store")

    def publish(kind, folder, job, **parents):
        (folder / "job.json").write_text(job.model_dump_json())
        return store.publish(folder, describe(folder, kind, parents=parents, settings_digest="s", code_digest="c"))

    model = ModelSettings(name="tiny")
    import_base(model, tmp_path / "policy")
    (tmp_path / "policy" / "model.safetensors").chmod(0o600)
    for name in ("samples.jsonl", "difficulty.json"):  # of a GRPO phase
        (tmp_path / "policy" / name).write_text("{}")
    base = publish("model", tmp_path / "policy", BaseJob(model=model.model_copy(update={"name": "Qwen/Qwen3-0.6B"})))
    (tmp_path / "data").mkdir()
    summary = {"splits": {"sft": {"rows": 64, "documents": 60, "domains": {"math": 40, "logical": 24}}}}
    (tmp_path / "data" / "summary.json").write_text(json.dumps(summary))
    data = publish("data", tmp_path / "data", BaseJob(model=model))
    job = SFTJob(sft=SFTSettings(learning_rate=3e-5), model=model, launch=LaunchSettings(), seed=7)
    return publish("model", tmp_path / "policy", job, model=base.sha256, data=data.sha256), base, data


def test_it_loads_in_transformers_and_its_card_tells_the_whole_story(
    tmp_path, export, trained, make_evaluation, write_evaluation
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, base, data = trained
    evaluation = make_evaluation([1, 0, 1, 1])
    plan = evaluation.plan.model_copy(update={"model_digest": model.sha256})
    log = write_evaluation(
        type(evaluation)(
            plan=plan, samples=evaluation.samples, scores=evaluation.scores, bootstrap=evaluation.bootstrap
        ),
        tmp_path / "log",
    )
    done = export("--model", f"model/{model.short}", "--out", tmp_path / "out" / "mine", "--evaluation", log, "--json")
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "out" / "mine"
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert (
        loaded.generate(**ids, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape[1]
        == ids["input_ids"].shape[1] + 3
    )
    files = json.loads(done.stdout)["files"]
    assert {path.name for path in out.iterdir()} == {*files, "README.md"}
    assert not {"manifest.json", "job.json", "samples.jsonl", "difficulty.json"} & set(files)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == (out / "README.md").stat().st_mode & 0o777
    card = (out / "README.md").read_text()
    assert card.startswith("---\n") and "base_model: Qwen/Qwen3-0.6B" in card and "license: apache-2.0" in card
    for said in (
        model.sha256,
        base.sha256,
        data.sha256,
        "supervised fine-tuning",
        '"learning_rate": 3e-05',
        "| sft | 64 | 60 |",
    ):
        assert said in card, said
    assert "| generated | 0.75 [" in card and "right 3, wrong 1" in card and "temperature 0.7" in card
    for name, digest in files.items():
        assert digest_file(out / name) == digest and digest in card


def test_a_plain_folder_says_what_is_not_known(tmp_path, export, trained):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text('{"max_position_embeddings": 4096}')
    done = export("--model", tmp_path / "plain", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its origin is not recorded" in card and "exported without an evaluation" in card and "4,096" in card
    assert "base_model" not in card and "license:" not in card


def test_refusals_leave_nothing_behind(tmp_path, export, trained, make_evaluation, write_evaluation):
    model, _, _ = trained
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    log = write_evaluation(make_evaluation([1, 0]), tmp_path / "log")
    cases = (
        (("--out", tmp_path / "full"), "is not empty: name a new folder"),
        (("--out", tmp_path / "new", "--evaluation", log), "is of model aaaaaaaaaaaa, not of model/"),
        (("--out", tmp_path / "new", "--evaluation", "evaluation/123456"), "there is no artifact evaluation/123456"),
    )
    for arguments, said in cases:
        done = export("--model", f"model/{model.short}", *arguments)
        assert done.exit_code == 2 and said in " ".join(done.stderr.split()), done.stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"] and not (tmp_path / "new").exists()
