"""Profiles and overrides: every shipped profile parses, every mistake is named with its mend."""

from __future__ import annotations

import pytest

from qwenlong_core.settings.profiles import SettingsError, load_settings, profile_names

TEACHER = "distill.teacher={base_url='http://u/v1', model='m'%s}"
SHORT = "distill.max_prompt_tokens=256"


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_parses(name):
    assert load_settings(name).profile == name


def test_the_profiles_users_are_promised_are_there():
    assert {"local", "learn", "smoke", "1gpu", "8gpu-14b", "32b", "l1.5-30b"} <= set(profile_names())


def test_the_large_profiles_hold_the_papers_recipe():
    for name in ("8gpu-14b", "32b"):
        settings = load_settings(name)
        grpo = settings.grpo
        assert [phase.max_prompt_tokens for phase in grpo.phases] == [20_000, 60_000, 120_000]
        assert {(phase.max_completion_tokens, phase.cache_tokens) for phase in grpo.phases} == {(10_000, 1_000)}
        assert (grpo.group_size, grpo.batch_size, grpo.mini_batch_size, grpo.learning_rate) == (8, 128, 32, 2e-6)
        assert (grpo.temperature, grpo.top_p, grpo.kl_coefficient) == (0.7, 0.95, 0.0)
        assert grpo.curriculum.probe_samples == 8, "difficulty is measured on the base model first"
        assert settings.execution.deployments["probe"] == settings.execution.deployments["grpo"]
        sft = settings.sft
        assert (sft.max_tokens, sft.learning_rate, sft.epochs, sft.batch_size) == (20_000, 5e-6, 3, 128)


def test_l15_has_its_recipe():
    grpo = load_settings("l1.5-30b").grpo
    limits = [(phase.max_prompt_tokens, phase.max_completion_tokens) for phase in grpo.phases]
    assert limits == [(20_000, 12_000), (60_000, 20_000), (120_000, 50_000)]
    assert (grpo.group_size, grpo.batch_size, grpo.learning_rate, grpo.kl_coefficient) == (8, 128, 2e-6, 0.0)
    assert (grpo.temperature, grpo.top_p, grpo.scale_rewards) == (0.7, 0.95, "task")
    assert grpo.on_policy and grpo.balance_tasks and grpo.aepo is not None


def test_no_reasoning_model_imitates_templates():
    for name in ("1gpu", "8gpu-14b", "32b"):
        settings = load_settings(name)
        assert settings.distill is not None and settings.sft_rows == "none", "SFT is skipped until a teacher is named"
        taught = load_settings(name, [TEACHER % ""])
        assert taught.sft_rows == "questions"
        longest = max(bucket.max_tokens for bucket in taught.data.generate_sft)
        assert 1.02 * longest <= taught.distill.max_prompt_tokens, "generated questions are met within 2%"
    assert [load_settings(name).sft_rows for name in ("local", "learn", "smoke")] == ["solutions"] * 3


def test_overrides_reach_any_value():
    settings = load_settings(
        "local",
        [
            "grpo.group_size=6",
            "grpo.phases.1.steps=9",
            "data.train=rows/*.jsonl",
            "rewards.judge={base_url='http://u', model='m'}",
        ],
    )
    assert settings.grpo.group_size == 6
    assert settings.grpo.phases[1].steps == 9
    assert settings.data.train == ("rows/*.jsonl",)
    assert settings.rewards.judge is not None and settings.rewards.judge.model == "m"


@pytest.mark.parametrize(
    "override",
    [
        "storage.uri='s3://AKIA:{}@bucket/prefix'",
        "storage.uri='s3://{}@bucket/prefix'",
        "storage.uri='https://me:{}@host/prefix'",
        "storage.s3='http://me:{}@host'",
        "storage.s3.endpoint_url=['http://me:{}@host?x=1']",
        "storage.cache_gb=http://host?access_key={}",
        "http://me:{}@host",
        "model.name='https://me:{}@host/owner/name'",
        "data.train='https://me:{}@host/rows.jsonl'",
        "tracking.uri='postgresql://host/db?user=me&password={}'",
    ],
)
def test_a_secret_in_a_setting_is_refused_and_not_repeated(override):
    with pytest.raises(SettingsError) as refusal:
        load_settings("smoke", [override.format("hunter2")])
    assert "hunter2" not in str(refusal.value) and str(refusal.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("grpo.grup_size=4", "unknown setting grpo.grup_size: did you mean 'group_size'?"),
        ("grpo.phases.0.step=4", "unknown setting grpo.phases.0.step: did you mean 'steps'?"),
        ("grpo.step=4", "unknown setting grpo.step: did you mean 'entropy_alarm.steps' or 'phases.N.steps'?"),
        ("grpo.max_round=4", "unknown setting grpo.max_round: did you mean 'dynamic_sampling.max_rounds'?"),
        ("grpo.fooo=4", "unknown setting grpo.fooo: known here: aepo, balance_tasks, "),
        ("grop.group_size=4", "unknown setting grop: did you mean 'grpo'?"),
        ("rewards.judge.base_ulr='u'", "did you mean 'base_url'?"),
        ("rewards.judge={base_url='notaurl', model='m'}", "'notaurl' is not the address of a server: give http://"),
        ("rewards.judge={base_url='http://', model='m'}", "is not the address of a server"),
        ("rewards.judge={base_url='http://u', model=' '}", "setting rewards.judge.model=' '"),
        ("rewards.judge={base_url='http://u', model='m', max_tokens=1}", "setting rewards.judge.max_tokens=1"),
        (
            "rewards.judge={base_url='http://u', model='m', reasoning_effort=''}",
            "setting rewards.judge.reasoning_effort=''",
        ),
        ("grpo.group_size=1", "setting grpo.group_size=1: Input should be greater than or equal to 2"),
        ("grpo.learning_rate=fast", "setting grpo.learning_rate='fast'"),
        ("grpo.batch_size=7", "grpo.batch_size=7 is not a multiple of grpo.mini_batch_size=3"),
        ("grpo.task='source'", "grpo.task='source' does nothing by itself"),
        ("grpo.aepo={high=0.1,low=0.3}", "low=0.3 is above high=0.1: swap them"),
        ("grpo.phases.7.steps=1", "'7' is not there; found indices 0 to 2"),
        ("grpo.phases.1.max_prompt_tokens=150", "max_prompt_tokens must grow from phase to phase"),
        ("grpo.phases.2.evaluate=false", "the last phase has evaluate=false, but the gate needs its scores"),
        ("grpo.vllm={tensor_parallel=2}", "does not use it: drop one of them"),
        ("grpo.engine='vllm-server'", "grpo.vllm.server_url and grpo.engine='vllm-server' go together"),
        ("execution.deployments={gprp='stage/gpu'}", "gprp"),
        ("grpo.micro_batch_size=5", "is not a multiple of 5 (micro_batch_size=5 on launch.num_processes=1)"),
        ("launch.num_machines=3", "launch.num_processes=1 is not a multiple of launch.num_machines=3"),
        ("launch={num_processes=2, num_machines=2}", "launch.num_machines=2, but launch.across is empty: name the"),
        ("launch.across=['']", "setting launch.across.0=''"),
        ("tracking.uri='http://me:hunter2@host'", "'http://***@host' carries a password"),
        ("tracking.uri=mlruns", "'mlruns' is not an address where MLflow can keep a registry: give sqlite:///FILE"),
        ("tracking.uri=ftp://host/mlflow", "'ftp://host/mlflow' is not an address where MLflow can keep a registry"),
        ("tracking.uri=me:hunter2@host/mlflow", "'***@host/mlflow' is not an address"),
        ("tracking.registered_model=team/qwenlong", "setting tracking.registered_model='team/qwenlong'"),
        ("tracking.experiment=", "setting tracking.experiment=''"),
        ("tracking.experiment='" + "x" * 501 + "'", "at most 500 characters"),
        ("tracking.registered_model=' '", "setting tracking.registered_model=' '"),
        ("execution.deployments={grpo='gpu'}", "setting execution.deployments.grpo='gpu'"),
        ("model.name=", "setting model.name=''"),
        ("storage.uri=", "setting storage.uri=''"),
        ("storage.work_dir=", "setting storage.work_dir=''"),
        ("storage.uri=s3:/bucket/prefix", "only 's3://BUCKET/PREFIX' or a folder without a scheme"),
        ("sft.loss=row", "setting sft.loss='row'"),
        ("sft.weight_decay=-0.1", "setting sft.weight_decay=-0.1"),
        ("sft.learning_rate=inf", "setting sft.learning_rate=inf: Input should be a finite number"),
        ("promotion.margin=nan", "setting promotion.margin=nan: Input should be a finite number"),
        ("seed=-1", "setting seed=-1: Input should be greater than or equal to 0"),
        ("seed=4294967296", "setting seed=4294967296: Input should be less than 4294967296"),
        ("seed", "expected key=value"),
        ("seed.x=1", "is a value, not a table"),
        ("model.revision='abc'", "needs a hub id"),
        ("model.enable_thinking='sometimes'", "setting model.enable_thinking='sometimes'"),
    ],
)
def test_a_wrong_override_is_refused_with_its_mend(override, said):
    with pytest.raises(SettingsError) as error:
        load_settings("local", ["seed=7", override])
    assert said in str(error.value)


def test_a_password_in_an_address_is_not_repeated_in_the_error():
    with pytest.raises(SettingsError) as error:
        load_settings("local", ["tracking.uri='http://me:hunter2@host'"])
    assert "hunter2" not in str(error.value)


def test_none_switches_an_optional_setting_off():
    assert load_settings("8gpu-14b", ["rewards.judge=none"]).rewards.judge is None
    assert load_settings("local", ["data.near_duplicates=none"]).data.near_duplicates is None


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(SettingsError, match="learn, local, smoke"):
        load_settings("lokal")


@pytest.mark.parametrize("content", [b"[grpo\n", "# für alle\n".encode("latin-1"), b"x = " + b"[" * 3000 + b"]" * 3000])
def test_broken_toml_names_the_file(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"mine\.toml: not valid TOML"):
        load_settings(str(path))


def test_a_byte_order_mark_is_no_part_of_a_profile(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 7\n")
    with pytest.raises(SettingsError) as error:
        load_settings(str(path))
    assert "not valid TOML" not in str(error.value), "the settings that a profile must have are missing"


def test_settings_survive_a_round_trip():
    settings = load_settings("8gpu-14b")
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["storage.uri='gs://bucket/x'"], "only 's3://BUCKET/PREFIX'"),
        (["storage.uri='s3://'"], "is not 's3://BUCKET/PREFIX'"),
        (["storage.uri='s3://bucket//x'"], "is not 's3://BUCKET/PREFIX'"),
        (["storage.uri='s3://bucket/../x'"], "is not 's3://BUCKET/PREFIX'"),
        (["storage.s3.region='eu-central-1'"], "is a folder"),
        (["storage.uri='s3://bucket'", "storage.s3.kms_key='k'"], "server_side_encryption='aws:kms'"),
        (["storage.uri='s3://bucket'", "storage.s3.endpoint_url='http://user:planted@host'"], "carries a password"),
        (["storage.uri='s3://bucket'", "storage.s3.part_bytes=1000"], "part_bytes"),
    ],
)
def test_a_store_address_that_makes_no_sense_is_refused(overrides, message):
    with pytest.raises(SettingsError, match=message) as refusal:
        load_settings("smoke", overrides)
    assert "planted" not in str(refusal.value)


EIGHT = ["launch.num_processes=8", "grpo.batch_size=8", "grpo.mini_batch_size=8", "sft.batch_size=32"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rewards.judge={model='m'}"], "rewards.judge.*needs base_url.*or serve"),
        (["evaluation.judge={model='m', serve={}, base_url='http://u'}"], "base_url='http://u' is one that runs: drop"),
        (
            ["rewards.judge={model='m', serve={gpus=[0]}}"],
            r"rewards.judge.serve.gpus=\[0\].*take GPU 0 to 0: .*from 1 on",
        ),
        (
            ["evaluation.judge={model='m', serve={gpus=[7, 8]}}", *EIGHT],
            r"evaluation.judge.serve.gpus=\[7, 8\].*from 8 on",
        ),
        (["rewards.judge={model='m', serve={}, concurrency=7}", *EIGHT], "rewards.judge.concurrency=7 is below .*=8"),
        (["rewards.judge={model='m', serve={gpus=[-1]}}"], "rewards.judge.serve.gpus"),
        (["rewards.judge={model='m', serve={port=1}}"], "unknown setting rewards.judge.serve.port"),
    ],
)
def test_a_judge_without_one_place_is_refused(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings("smoke", overrides)


def test_processes_share_a_judges_requests():
    judge = load_settings("8gpu-14b", ["rewards.judge.concurrency=19"]).rewards.judge
    assert [judge.share(rank, 8).concurrency for rank in range(8)] == [3, 3, 3, 2, 2, 2, 2, 2]
    assert judge.share(0, 1) == judge


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([TEACHER % "", "distill.traces='t.jsonl'"], "distill.teacher and distill.traces exclude each other"),
        ([TEACHER % ", samples=2", "distill.keep_per_question=3"], "keep_per_question=3 is more than .*samples=2"),
        (
            ["distill.min_trace_tokens=9", "distill.max_trace_tokens=8"],
            "min_trace_tokens=9 is over .*max_trace_tokens=8",
        ),
        (
            [TEACHER % "", "distill.max_prompt_tokens=384"],
            r"max_prompt_tokens \+ min_trace_tokens = 385 is over sft.max_tokens=384",
        ),
        ([TEACHER % ", samples=0"], "distill.teacher.samples=0"),
        ([TEACHER % ", endpoint='completions'"], "unknown setting distill.teacher.endpoint"),
        (["distill.teacher={base_url='http://me:planted@u', model='m'}"], "carries a password"),
        (["distill.traces=['http://me:planted@u/t.jsonl']"], "carries a password"),
        (["distill.max_repeated_share=2"], "distill.max_repeated_share=2"),
        (["distill.answers_dir="], "distill.answers_dir=''"),
    ],
)
def test_a_distillation_that_makes_no_sense_is_refused(overrides, message):
    with pytest.raises(SettingsError, match=message) as refusal:
        load_settings("smoke", [SHORT, *overrides])
    assert "planted" not in str(refusal.value)


def test_one_setting_chooses_the_bucket():
    storage = load_settings("smoke", ["storage.uri='s3://bucket/team/project'"]).storage
    assert storage.uri == "s3://bucket/team/project" and storage.s3 is None


def test_values_are_used_as_they_are_and_overrides_replace_them():
    values = {"evaluation.document": "none", "evaluation.temperature": 0.1, "evaluation.limit": None}
    settings = load_settings("smoke", ["evaluation.temperature=0.5"], values=values)
    found = settings.evaluation
    # As an override ``none`` would mean no value; as a value it is the text.
    assert (found.document, found.temperature, found.limit) == ("none", 0.5, None)
