"""A model without a chat template is refused at every door, and ``model.chat_template`` mends it."""

from pathlib import Path

import pytest

from qwenlong.flows.cli.doctor import _chat_template
from qwenlong.flows.cli.generate import policy_tokenizer
from qwenlong.flows.pipeline_run import preflight
from qwenlong.tasks.models import resolve_model, resolve_tokenizer
from qwenlong.tasks.specs import base_stage
from qwenlong_core.models import import_base, load_tokenizer
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

REFUSAL = r"no chat template.*model\.chat_template"
TEMPLATE = "<|im_start|>{{ messages[0]['content'] }}<|im_end|>"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as many base models are published: whole, but without a chat template."""
    folder = tmp_path_factory.mktemp("bare")
    import_base(ModelSettings(name="tiny"), folder)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.fixture
def settings(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings("smoke", [f"model.name='{bare}'"])


@pytest.fixture
def mended(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    model = settings.model.model_copy(update={"chat_template": str(tmp_path / "chat.jinja")})
    return settings.model_copy(update={"model": model})


def test_run_doctor_prepare_and_eval_refuse_it_before_any_work(bare: Path, settings: Settings, tmp_path: Path) -> None:
    for door in (
        lambda: preflight(settings),
        lambda: policy_tokenizer(str(bare)),
        lambda: load_tokenizer(bare),
        lambda: import_base(settings.model, tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match=REFUSAL):
            door()
    assert not (tmp_path / "out").exists()
    finding = _chat_template(settings)
    assert not finding.ok
    assert "model.chat_template" in finding.mend


def test_the_setting_is_written_into_the_model(bare: Path, mended: Settings) -> None:
    preflight(mended)
    assert _chat_template(mended).ok
    for model in (resolve_model(mended, str(bare)), resolve_tokenizer(mended, str(bare))):
        assert load_tokenizer(model.folder).chat_template == TEMPLATE


def test_an_edited_template_is_another_base_model(mended: Settings) -> None:
    before = base_stage(mended).job["digest"]
    Path(mended.model.chat_template or "").write_text(TEMPLATE + "\n")
    assert base_stage(mended).job["digest"] != before


def test_a_template_file_that_is_not_there_is_named(mended: Settings) -> None:
    Path(mended.model.chat_template or "").unlink()
    with pytest.raises(ValueError, match=r"model\.chat_template='.*chat\.jinja' is no file"):
        preflight(mended)
    assert "is no file" in _chat_template(mended).mend


SWITCHED = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
WITHOUT_SWITCH = r"model\.enable_thinking=false.*no such switch.*model\.chat_template"


def with_thinking_off(settings: Settings) -> Settings:
    return settings.model_copy(update={"model": settings.model.model_copy(update={"enable_thinking": False})})


def test_a_template_without_the_thinking_switch_is_refused_at_the_same_doors(mended: Settings, tmp_path: Path) -> None:
    settings, given = with_thinking_off(mended), mended.model.name
    for door in (
        lambda: preflight(settings),
        lambda: resolve_model(settings, given),
        lambda: resolve_tokenizer(settings, given),
        lambda: import_base(settings.model, tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match=WITHOUT_SWITCH):
            door()
    assert not (tmp_path / "out").exists()
    finding = _chat_template(settings)
    assert not finding.ok
    assert "no such switch" in finding.mend


def test_the_thinking_switch_is_written_into_the_model(mended: Settings, tmp_path: Path) -> None:
    Path(mended.model.chat_template or "").write_text(SWITCHED)
    settings, given = with_thinking_off(mended), mended.model.name
    preflight(settings)
    assert _chat_template(settings).found.endswith("chat.jinja, enable_thinking=false")
    whole = with_thinking_off(load_settings("smoke"))  # a folder with a template of its own is imported too
    model = tmp_path / "switched"
    import_base(mended.model, model)
    for found in (resolve_model(settings, given), resolve_tokenizer(settings, given), resolve_model(whole, str(model))):
        tokenizer = load_tokenizer(found.folder)
        turn = [{"role": "user", "content": "?"}]
        assert tokenizer.apply_chat_template(turn, tokenize=False).endswith("<think>\n\n</think>\n\n")
