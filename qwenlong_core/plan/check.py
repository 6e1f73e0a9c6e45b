"""Whether a profile may start: what cannot fit is refused before the first GPU hour."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from qwenlong_core.plan.compare import process_bytes
from qwenlong_core.plan.confirm import known_peaks
from qwenlong_core.plan.machine import GIB, chosen_machine
from qwenlong_core.plan.make import Plan, make_plan
from qwenlong_core.plan.search import nearest
from qwenlong_core.settings.tree import Settings

logger = logging.getLogger(__name__)


def plan_here(settings: Settings, probe: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a profile on the machine of ``plan.machine``, with the rehearsals that are kept.

    Raises:
        NoPlan: a model that a plan cannot reckon with.
        ConnectionError: the model's shape is not known here, and the hub does not answer.
        ValueError: the machine is not known.
    """
    machine = chosen_machine(settings)
    return make_plan(settings, machine, probe, known_peaks(settings) if machine.is_gpu else None)


def planned_stages(settings: Settings) -> dict[str, dict[str, float]]:
    """Seconds of a step and GiB of a process by stage, for the report; empty for a model that no plan covers."""
    try:
        plan = plan_here(settings)
    except (ValueError, ConnectionError) as error:  # the checks before the run have said so
        logger.info("not planned: %s", error)
        return {}
    return {
        stage.name: {"seconds": stage.step.total, "gib": process_bytes(stage, plan.machine) / GIB}
        for stage in plan.stages
        if stage.step
    }


def mend(plan: Plan, probe: Mapping[str, Any] | None = None) -> str:
    """What to set so that a plan that does not fit does; names settings."""
    found = [" and ".join(one.overrides) for one in nearest(plan, probe)]
    settings = f"set {', or '.join(found)}" if found else "take larger or more GPUs, or shorter phases"
    return f"{settings}; plan.machine={plan.machine.name} may not be the machine that you have"


def require_fit(settings: Settings) -> None:
    """Refuse a profile that cannot fit, unless ``plan.check`` is off.

    Raises:
        ValueError: it does not fit; the message says what does.
        NoPlan: see :func:`plan_here`.
        ConnectionError: see :func:`plan_here`.
    """
    if settings.plan.check == "off":
        return
    plan = plan_here(settings)
    if not plan.fits:
        raise ValueError(
            f"profile {settings.profile!r} does not fit {plan.machine.name}: {'; '.join(plan.faults)}. {mend(plan)}; or"
            " start it all the same with plan.check=off"
        )
