"""Pretend that this process is one of several that have a CUDA device each.

Every private interface of torch, accelerate and TRL that the rehearsal needs is named in this file, but for the C++
headers in ``shim.py``, which is loaded before torch. The version check there covers both, and
``tests/rehearsal/test_shim.py`` finds a private name in any other file. Import it after :func:`.shim.load_shim`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import transformers.masking_utils
import transformers.utils.import_utils
import trl.kernels.chunked_logprob as head_kernels
import trl.trainer.grpo_trainer
import trl.trainer.utils
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils.launch import prepare_multi_gpu_env
from torch._subclasses import fake_tensor
from torch.distributed._tools import fake_collectives  # noqa: F401  # gives collectives a result on fake tensors
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup as FSDPParamGroup
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
FakeTensor, FakeTensorMode = fake_tensor.FakeTensor, fake_tensor.FakeTensorMode
DynamicOutputShapeException = fake_tensor.DynamicOutputShapeException
unset_fake_temporarily = fake_tensor.unset_fake_temporarily
PRODUCTS = {str(packet): flop_registry[packet] for packet in (_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm)}
"""torch's own formulas for the FLOPs of matrix products, by name; they take an operation's tensors."""


def storage_key(storage: Any) -> int:
    """What tells a storage from all others that live."""
    key: int = storage._cdata
    return key


def environment_of(config: str) -> dict[str, str]:
    """The variables that ``accelerate launch --config_file`` sets for its processes."""
    parsed = launch_command_parser().parse_args(["--config_file", config, "--machine_rank", "0", "none.py"])
    arguments, _, _ = _validate_launch_command(parsed)
    found: dict[str, str] = prepare_multi_gpu_env(arguments)
    return found


class _Stream:
    """Of ``torch.cuda``: everything runs in order, so there is nothing to wait for."""

    device = torch.device("cuda", 0)
    device_index, device_type, stream_id, cuda_stream = 0, 1, 0, 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def record_event(self, event: Any = None) -> _Event:
        return event or _Event()

    def _nothing(self, *_: Any) -> None: ...

    wait_stream = wait_event = synchronize = _nothing

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def _nothing(self, *_: Any) -> None: ...

    record = wait = synchronize = _nothing

    def query(self) -> bool:
        return True


def _nothing(*_: Any, **__: Any) -> None: ...


@contextlib.contextmanager
def _no_context(*_: Any, **__: Any) -> Iterator[None]:
    yield


def pretend_cuda(devices: int, memory: int = 80 * 10**9) -> None:
    """Answer as a build of torch with CUDA and ``devices`` GPUs of the Hopper generation would."""
    name = SimpleNamespace(name="pretended", major=9, minor=0, total_memory=memory, multi_processor_count=132)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: name.name,
        "get_device_properties": lambda *_: name,
        "is_bf16_supported": lambda *_, **__: True,
        "is_initialized": lambda: True,
        "mem_get_info": lambda *_: (memory, memory),
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "get_rng_state_all": lambda *_: [],
        "current_stream": _Stream,
        "default_stream": _Stream,
        "Stream": _Stream,
        "Event": _Event,
        "stream": _no_context,
        "device": _no_context,
    }
    silent = (
        "set_device", "set_stream", "synchronize", "empty_cache", "manual_seed", "manual_seed_all", "_lazy_init",
        "init",        "set_rng_state", "set_rng_state_all", "reset_peak_memory_stats", "ipc_collect",
    )  # fmt: skip
    for key, value in answers.items() | dict.fromkeys(silent, _nothing).items():
        setattr(torch.cuda, key, value)
    torch.accelerator.current_stream = _Stream  # type: ignore[assignment]
    torch.accelerator.synchronize = _nothing  # type: ignore[assignment]
    torch.backends.cuda.SDPAParams = lambda *asked: asked  # type: ignore[misc,assignment]
    half = (torch.float16, torch.bfloat16)
    torch.backends.cuda.can_use_flash_attention = lambda asked, *_: all(x.dtype in half for x in asked[:3])
    transformers.utils.import_utils.is_torch_cuda_available = lambda: True
    fake_tensors()
    _kernels()


def fake_tensors() -> None:
    """Let fake tensors pass for real ones in accelerate, DTensor and autograd, on any device."""
    # Without these, a fake tensor's first use of a device allocates on it.
    FakeTensorMode.avoid_device_init = True  # type: ignore[assignment,method-assign]
    fake_tensor.init_gpu_context = _nothing  # type: ignore[assignment]
    # A module cannot exchange a fake weight for another one. They are made where they stay.
    torch.nn.Module.to = lambda module, *_, **__: module  # type: ignore[method-assign,assignment]
    # accelerate maps the optimizer's parameters by the address of their data, of which fakes have none.
    FakeTensor.data_ptr = lambda self: id(self.untyped_storage())  # type: ignore[method-assign]
    # Pinned memory is the host's, which is not counted, and which a build without CUDA does not have.
    FakeTensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign,assignment]
    # transformers takes fakes for a model that is being traced, and would write out the mask that it leaves out else.
    transformers.masking_utils.is_tracing = lambda *_: False
    # DTensor finds the shapes of results on whole tensors; under our modes they would count as memory.
    propagate = ShardingPropagator._propagate_tensor_meta_non_cached

    def without_modes(propagator: Any, schema: Any) -> Any:
        with _disable_current_modes():
            return propagate(propagator, schema)

    ShardingPropagator._propagate_tensor_meta_non_cached = without_modes  # type: ignore[method-assign,assignment]
    # The engine's own threads would not see our modes.
    torch.autograd.set_multithreading_enabled(False)


def _kernels() -> None:
    """What a CPU build computes in another way than the GPU does."""
    # With a kernel of its own, the backward of SiLU is one operation with one result, as in a CUDA build. Without, it
    # is a chain of five with five results.
    _CUDA.impl("silu_backward", lambda gradient, x: torch.empty_like(x), "CUDA")
    # Without a GPU, attention without a mask would be computed by matrix products of N x N numbers.
    torch.nn.functional.scaled_dot_product_attention = _attention  # type: ignore[assignment]
    # TRL's head runs Triton kernels, which write into tensors that exist already.
    kernel = type("Kernel", (), {"__getitem__": lambda self, grid: _nothing})()
    head_kernels._use_triton = trl.trainer.utils._use_triton = lambda device: device.type == "cuda"
    head_kernels._forward_kernel = head_kernels._backward_kernel = kernel
    head_kernels.triton = SimpleNamespace(cdiv=lambda a, b: -(-a // b))
    # vLLM is not there, and would not run: rollouts are given.
    trl.trainer.grpo_trainer.VLLMGeneration = lambda *_, **__: None


def shard_on_cpu() -> None:
    """Let accelerate shard a model over CPU processes where the environment asks for FSDP.

    accelerate shards on accelerators only: of several CPU processes it makes DDP. All that follows this one choice runs
    on a CPU too, so it is made here as accelerate makes it on GPUs. Nothing else is replaced.
    """
    plain = AcceleratorState.__init__

    def sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        first = not AcceleratorState._shared_state
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if first and fsdp_plugin is not None:
            # The lines that AcceleratorState.__init__ runs for GPUs.
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            # accelerate says cpu:0. Real tensors forget the number, fakes would differ from those on cpu.
            self.device = PartialState._shared_state["device"] = torch.device("cpu")

    AcceleratorState.__init__ = sharded  # type: ignore[method-assign]


_plain_attention = torch.nn.functional.scaled_dot_product_attention


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any) -> Any:
    """As a GPU chooses: flash attention for 16-bit numbers without a mask."""
    if attn_mask is not None or query.dtype not in (torch.float16, torch.bfloat16):
        return _plain_attention(query, key, value, attn_mask, **options)
    options.pop("enable_gqa", None)  # the kernel finds key heads that queries share by their number
    return _aten._scaled_dot_product_flash_attention(query, key, value, **options)[0]


_CUDA = torch.library.Library("aten", "IMPL")


def pretend_ranks(processes: int, variables: Mapping[str, str]) -> None:
    """Be the last rank of a group whose collectives return at once.

    Of the ranks that share a row, the last holds the completions, and with them the head's work.

    Args:
        processes: Ranks.
        variables: What ``accelerate launch`` sets in the environment.
    """
    os.environ.update(variables)
    os.environ.update(RANK=str(processes - 1), LOCAL_RANK="0", WORLD_SIZE=str(processes))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    if dist.is_initialized():  # a second rehearsal in this process
        AcceleratorState._reset_state(reset_partial_state=True)
        return
    dist.init_process_group("fake", store=FakeStore(), rank=processes - 1, world_size=processes)

    # Objects have no bytes on a fake device: all ranks are taken to hold what this one does.
    def gather(found: list[Any], value: Any, *_: Any, **__: Any) -> None:
        found[:] = [value] * len(found)

    dist.all_gather_object = torch.distributed.all_gather_object = gather  # type: ignore[assignment]
    dist.broadcast_object_list = _nothing
    dist.barrier = _nothing
