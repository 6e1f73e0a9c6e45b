"""Tells the ledger which part of a step runs, and for what memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from itertools import count
from typing import Any

from qwenlong_core.rehearsal.device import FSDPParamGroup
from qwenlong_core.rehearsal.ledger import Ledger

KEPT = "kept activations"
OLD_PASS = "old log-probs"
"""Passes without gradient when a batch arrives."""
BACKWARD, LAYERS = "backward", " of the layers"
"""A backward begins with the head's; with checkpointing, it is seen when the layers' begins."""


def watch(trainer: Any, ledger: Ledger) -> None:
    """Watch a trainer's step: its parts by label, its layers, the head, FSDP and the optimizer by term."""
    model, forwards = trainer.model, count()

    def update() -> str:
        return f"update {trainer.state.global_step + 1}"

    def part(name: str) -> str:
        return f"{update()}, forward {trainer.forwards % trainer.args.gradient_accumulation_steps + 1}: {name}"

    def begins() -> str:
        # Until here the model was loaded and sharded, which is no part of a step.
        ledger.restart()
        ledger.recount("weights", *_local(model.parameters()), *model.buffers())
        return OLD_PASS

    def forward() -> str:
        trainer.forwards = next(forwards)
        if trainer.forwards == 0 and not scores:
            begins()
        return part("forward")

    scores = hasattr(trainer, "next_batch")  # a batch that is scored before it is trained on: GRPO, not SFT
    if scores:
        _wrap(trainer, "next_batch", ledger, begins, "batch")
        _wrap(trainer.logprobs, "_run", ledger, None, "head")
    _wrap(trainer, "compute_loss", ledger, forward, "head")
    _wrap(trainer.accelerator, "backward", ledger, lambda: part(BACKWARD), "head")
    _wrap(trainer.accelerator, "clip_grad_norm_", ledger, lambda: f"{update()}: clipping", "gradients")
    for layer in layers_of(model):
        _watch_layer(layer, ledger)
    _watch_optimizer(trainer, ledger)


def layers_of(model: Any) -> list[Any]:
    """The decoder layers of a transformers model."""
    return list(model.get_decoder().layers)


def _local(tensors: Any) -> list[Any]:
    return [x.to_local() if hasattr(x, "to_local") else x for x in tensors]


def _wrap(owner: Any, name: str, ledger: Ledger, label: Callable[[], str] | None, term: str) -> None:
    """While a method runs, the step is in the part of ``label``, and new memory counts as ``term``."""
    inner = getattr(owner, name)

    @wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        if label is not None:
            ledger.begin(label())
        with ledger.counting_as(term):
            result = inner(*args, **kwargs)
        if label is not None:
            ledger.begin("between")
        return result

    setattr(owner, name, outer)


def _watch_layer(layer: Any, ledger: Ledger) -> None:
    def before(*_: Any) -> None:
        layer.rehearsed = (ledger.term, ledger.born)
        ledger.term = "one layer"

    def after(*_: Any) -> None:
        outside, born = layer.rehearsed
        # What a layer leaves behind is kept for the backward, or is the next one's input.
        ledger.recount_since(born, KEPT, "one layer")
        ledger.term = outside

    def again(*_: Any) -> None:
        if ledger.label.endswith(BACKWARD):  # the first layer whose forward is repeated
            ledger.begin(ledger.label + LAYERS)
            ledger.term = "one layer"

    # First and last of the layer's hooks: FSDP's own come inside and name their terms themselves.
    layer.register_forward_pre_hook(before, prepend=True)
    layer.register_forward_hook(after, always_call=True)
    # Checkpointing repeats what is inside a layer, but not the call of the layer itself.
    for part in layer.children():
        part.register_forward_pre_hook(again, prepend=True)


def _watch_optimizer(trainer: Any, ledger: Ledger) -> None:
    create = trainer.create_optimizer

    def created(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        optimizer.register_step_pre_hook(lambda *_: begin())
        optimizer.register_step_post_hook(lambda *_: end())
        return optimizer

    def begin() -> None:
        ledger.begin(f"update {trainer.state.global_step + 1}: optimizer step")
        ledger.term = "optimizer"

    def end() -> None:
        ledger.term = "batch"
        ledger.begin("between")

    trainer.create_optimizer = created


@contextmanager
def watched_sharding(ledger: Ledger) -> Any:
    """Count gathered weights and buffers of FSDP as collectives, and sharded gradients as gradients."""
    names = ("unshard", "wait_for_unshard", "post_backward", "finalize_backward")
    originals = {name: getattr(FSDPParamGroup, name) for name in names}

    def counted(name: str) -> Callable[..., Any]:
        @wraps(originals[name])
        def method(group: Any, *args: Any, **kwargs: Any) -> Any:
            with ledger.counting_as("collectives"):
                result = originals[name](group, *args, **kwargs)
            if name.endswith("backward"):
                gradients = [one.sharded_param.grad for one in group.fsdp_params]
                ledger.recount("gradients", *_local(g for g in gradients if g is not None))
            return result

        return method

    for name in names:
        setattr(FSDPParamGroup, name, counted(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(FSDPParamGroup, name, original)
