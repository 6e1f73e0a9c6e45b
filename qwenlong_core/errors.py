"""The errors that this project raises on purpose: what each means, who catches it, and whether a retry can help.

    QwenlongError                      expected; the command line shows its message without a traceback
    +-- Refused (ValueError)           settings, data or a request that cannot be used. Exit code 2, never retried
    |   +-- SettingsError              settings.profiles: a profile or an override
    |   +-- StageRefused               tasks.process: a stage's process refused its job; it wrote down why
    |   +-- BadReference               tasks.references: REF names no model or artifact, or several
    |   +-- RollbackRefused            tasks.tracking.champion: there is no champion to restore
    +-- ArtifactError (RuntimeError)   store.artifacts: an artifact is missing or a store cannot be used. Exit code 2
    |   +-- Damaged                    its content differs from its digest; a store makes or fetches it again
    +-- ProcessFailed (RuntimeError)   tasks.process: a stage's process ended with an error. Retried, then exit code 1
    +-- Alarm (RuntimeError)           a training stops itself, and resumes from its checkpoint once it is mended
        +-- RewardAlarm                rewards.monitor: too many unscored rewards, or too many paid by the judge alone
        +-- EntropyAlarm               training.entropy: the policy's entropy has collapsed

Most refusals are a plain ``ValueError`` or ``FileNotFoundError`` raised by this project's own code
(:func:`qwenlong_core.stage_main.raised_here` tells them from the same types raised inside a library, which are
faults and keep their traceback). A stage's process writes its refusal to a file and exits with status 2, and the
pipeline raises :class:`StageRefused` with the same message.

What can pass is a ``ConnectionError`` (network, bucket, MLflow, hub), an ``OSError`` or a :class:`ProcessFailed`:
Prefect retries every error except ``ValueError``, ``TypeError`` and ``AssertionError``.

Some errors never leave the module next door: ``BadRow`` (a row to be counted and dropped), ``DoesNotFit`` (synthesis
tries again), ``JudgeError`` (the completion stays unscored), ``BadReply`` and ``Garbled`` (asked for again).

The classes stand beside the code that raises them. This module is left out of the fingerprints of stages: an
error never becomes a result.
"""

from __future__ import annotations

STAGE_ENVIRONMENT = (
    "build it with `make setup-gpu` in a checkout, or install the wheel with the extra `gpu` in an environment of its "
    "own, and set launch.python to its interpreter"
)
"""How to get an interpreter for the stages of a GPU profile."""


class QwenlongError(Exception):
    """An error that was expected to happen; its message says what is wrong, and what to do about it."""


class Refused(QwenlongError, ValueError):
    """Settings, data or a request that cannot be used as they are; trying again changes nothing."""


class Alarm(QwenlongError, RuntimeError):
    """A training stopped itself, since what it was doing could no longer be trusted."""
