"""Machines by their rates: what a kernel reaches, not what the data sheet promises.

The GPUs here are **assumed**: rates that public measurements and data sheets make likely. ``qwenlong plan`` can measure
the machine it runs on; it writes the rates beside what earlier runs have taught (:mod:`calibration`).
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from statistics import median

from pydantic import Field

from qwenlong_core.interpreter import devices_of
from qwenlong_core.plan.flops import PEAKS
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.files import write_json

GIB = 2**30


class Learned(Block):
    """Measured over planned, of the newest stages that ran on a kind of machine."""

    seconds: tuple[float, ...] = ()
    """Of a step, planned with the lengths that came."""
    space: tuple[float, ...] = ()
    """Of the memory that depends on the settings."""

    @property
    def slower(self) -> float:
        """Factor of a plan's seconds: the median."""
        return median(self.seconds) if self.seconds else 1.0

    @property
    def larger(self) -> float:
        """Factor of a plan's memory: the largest, and never less than 1, since a plan must not fall short."""
        return max((1.0, *self.space))


class Machine(Block):
    """One device and its place. Rates are in FLOP/s and bytes a second, memory in bytes."""

    name: str
    source: str
    """Where the rates come from: ``assumed``, or the day they were measured."""
    memory: float = Field(gt=0)
    """Of one GPU; of the host for a CPU."""
    peak: float = Field(gt=0)
    """The data sheet's dense FLOP/s in the training's precision, or the best that was measured; MFU refers to it."""
    products: float = Field(gt=0)
    """FLOP/s of matrix products over thousands of rows."""
    attention: float = Field(gt=0)
    attention_backward: float = Field(gt=0)
    elementwise: float = Field(gt=0)
    """Bytes a second of norms, activations and sums."""
    reading: float = Field(gt=0)
    """Bytes a second at which decoding reads weights and cache."""
    operation: float = Field(ge=0)
    """Seconds that starting one operation takes. A GPU computes meanwhile, unless a pass is as short as in decoding."""
    drawing: float = Field(0.0, ge=0)
    """Seconds to draw a token, for each number of the vocabulary and each completion; a CPU feels it."""
    link: float = Field(gt=0)
    """Bytes a second between the devices of a node."""
    network: float = Field(gt=0)
    """Bytes a second between nodes, a device's share."""
    host_copy: float = Field(gt=0)
    """Bytes a second between device and host."""
    disk: float = Field(gt=0)
    """Bytes a second to write a file."""
    seal: float = Field(gt=0)
    """Bytes a second of SHA-256 on one core."""

    learned: Learned = Learned()
    """What earlier runs on this kind of machine have taught."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU: activations can then be moved to the host."""
        return self.name != "cpu"


def _gpu(name: str, memory_mib: float, **rates: float) -> Machine:
    shared = {"operation": 8e-6, "host_copy": 25e9, "disk": 1.5e9, "seal": 1.5e9}
    return Machine.model_validate(
        {"name": name, "source": "assumed", "memory": memory_mib * 2**20, "peak": PEAKS[name]} | shared | dict(rates)
    )


ASSUMED = {
    "h100": _gpu(
        "h100", 81559, products=600e12, attention=330e12, attention_backward=280e12,
        elementwise=2.6e12, reading=0.7 * 3.35e12, link=330e9, network=45e9,
    ),
    "h200": _gpu(
        "h200", 143771, products=600e12, attention=330e12, attention_backward=280e12,
        elementwise=3.7e12, reading=0.7 * 4.8e12, link=330e9, network=45e9,
    ),
    "a100": _gpu(
        "a100", 81920, products=220e12, attention=190e12, attention_backward=165e12,
        elementwise=1.6e12, reading=0.7 * 2.04e12, link=230e9, network=22e9,
    ),
}  # fmt: skip
"""80 GB H100 and A100, 141 GB H200. 70% of the data sheet's bandwidth is assumed to be reached in decoding."""


def assumed_cpu() -> Machine:
    """This computer's cores as they might be; a measurement knows better."""
    cores = len(os.sched_getaffinity(0))
    return Machine(
        name="cpu",
        source="assumed",
        memory=host_memory(),
        peak=60e9 * cores,
        products=45e9 * cores,
        attention=20e9 * cores,
        attention_backward=20e9 * cores,
        elementwise=8e9,
        reading=8e9,
        operation=15e-6,
        drawing=5e-9,
        link=5e9,
        network=1e9,
        host_copy=10e9,
        disk=0.5e9,
        seal=0.3e9,
    )


def host_memory() -> float:
    """Bytes of memory of this computer."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def kind_of_gpu(name: str) -> str:
    """``h100`` for ``NVIDIA H100 80GB HBM3``; for a GPU that is not in the table its name in small letters."""
    found = [kind for kind in ASSUMED if kind.upper() in name.upper()]
    return found[0] if found else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def rates_file(folder: Path, kind: str) -> Path:
    """Where the measured rates of a kind of machine are. A CPU's file also names its cores, of which there are many."""
    return folder / f"{kind if kind != 'cpu' else f'cpu-{platform.machine()}-{len(os.sched_getaffinity(0))}'}.json"


def learned_file(folder: Path, kind: str) -> Path:
    """Where the ratios of a kind of machine are, beside its rates."""
    return rates_file(folder, kind).with_suffix(".learned.json")


def machine_of(kind: str, folder: Path, memory_gib: float | None = None) -> Machine:
    """A kind of machine with the rates that were measured, else with the assumed ones.

    Raises:
        ValueError: the kind is not known and was not measured, or its file cannot be read.
    """
    machine = _measured(rates_file(folder, kind))
    if machine is None and kind != "cpu" and kind not in ASSUMED:
        raise ValueError(
            f"plan.machine={kind!r} is not known: measure one with `qwenlong plan`, or take cpu, {', '.join(ASSUMED)}"
        )
    machine = machine or (assumed_cpu() if kind == "cpu" else ASSUMED[kind])
    path = learned_file(folder, kind)
    learned = Learned.model_validate_json(path.read_text()) if path.is_file() else Learned()
    own = {} if memory_gib is None else {"memory": memory_gib * GIB}
    return machine.model_copy(update={"learned": learned} | own)


def _measured(path: Path) -> Machine | None:
    if not path.is_file():
        return None
    try:
        return Machine.model_validate_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} holds no rates of a machine: measure it again with `qwenlong plan`") from error


def chosen_machine(settings: Settings) -> Machine:
    """The machine of ``plan.machine``.

    Raises:
        ValueError: see :func:`machine_of`.
    """
    plan = settings.plan
    kind = _kind_found(settings) if plan.machine == "auto" else plan.machine
    return machine_of(kind, Path(plan.folder), plan.memory_gib)


def _kind_found(settings: Settings) -> str:
    if settings.model.dtype == "float32":
        return "cpu"
    if "grpo" in settings.execution.deployments:
        return "h100"  # a pool's machine, which is not this one
    try:
        gpus = devices_of(settings.launch.python).gpus
    except ValueError:  # there is no interpreter for stages here; doctor and preflight say what is missing
        gpus = ()
    return kind_of_gpu(gpus[0]) if gpus else "h100"


def save_rates(machine: Machine, folder: Path) -> Path:
    """Write measured rates; returns the file."""
    path = rates_file(folder, machine.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, machine.model_dump(mode="json"))
    return path
