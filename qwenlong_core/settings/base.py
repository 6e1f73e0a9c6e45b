"""What every settings block shares, and the types of fields that several blocks use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from qwenlong_core.settings.limits import outside
from qwenlong_core.settings.secrets import refuse_secret

T = TypeVar("T")
_ROOM = "qwenlong_core.settings"
_HTTP = re.compile(r"https?://[^/\s]+(/\S*)?")


@dataclass(frozen=True)
class _Incidental:
    """The marker of :data:`Incidental`."""


Incidental = Annotated[T, _Incidental()]
"""``save_steps: Incidental[int]``: a setting that does not change the result, such as how often to save or how
long to wait for a server. It is no part of a stage's fingerprint, so an edit to it re-runs nothing."""


class Block(BaseModel):
    """A frozen group of settings. Unknown keys are refused, and so are infinities and NaN, which JSON cannot hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_limits(cls, value: Any, info: ValidationInfo) -> Any:
        # Records of other rooms are blocks too, and may hold any number.
        if cls.__module__.startswith(_ROOM) and (wrong := outside(str(info.field_name), value)):
            raise ValueError(wrong)
        return value

    def deciding(self) -> dict[str, Any]:
        """The settings that can change a result, as JSON values: all but the :data:`Incidental` ones, at any depth."""
        dumped = self.model_dump(mode="json")
        return {
            name: _deciding(getattr(self, name), dumped[name])
            for name, field in type(self).model_fields.items()
            if not any(isinstance(mark, _Incidental) for mark in field.metadata)
        }


def _deciding(value: Any, dumped: Any) -> Any:
    if isinstance(value, Block):
        return value.deciding()
    if isinstance(value, tuple):
        return [_deciding(part, shown) for part, shown in zip(value, dumped, strict=True)]
    if isinstance(value, Mapping):
        return {key: _deciding(part, dumped[key]) for key, part in value.items()}
    return dumped


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


PlainUrl = Annotated[str, AfterValidator(refuse_secret)]
"""An address without a password, token or key in it."""


def _http(url: str) -> str:
    if not _HTTP.fullmatch(url):
        raise ValueError(f"{url!r} is not the address of a server: give http://HOST:PORT/v1 or https://HOST/v1")
    return url


Endpoint = Annotated[PlainUrl, AfterValidator(_http)]
"""The base address of an OpenAI-compatible server."""

Strings = Annotated[tuple[PlainUrl, ...], BeforeValidator(_as_tuple)]
"""A list of paths or addresses; a single one stands for a list of one."""

Name = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""A folder or a name. It must not be empty: an empty folder name would mean the working directory."""

Share = Annotated[float, Field(ge=0, le=1)]

Stop = tuple[Annotated[str, Field(min_length=1)], ...]
"""Strings that end a completion, beside the model's own end-of-sequence token."""
