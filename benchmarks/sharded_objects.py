"""What FSDP2 takes for a layer beside the layer's tensors: its objects, and what the heap keeps around them.

    python benchmarks/sharded_objects.py

Two processes share a Llama of width 256 over gloo and take four steps with AdamW, once with 4 layers and once with 12.
Printed is how much more a process grows for each of the 8 layers than its shares of weights and optimizer state take.
``rehearsal.py`` adds it to what a ledger of tensors can see. Takes under a minute.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

from rehearsal import HEAP, bytes_of, on_each

FEW, MANY = 4, 12


def grown(shape: dict[str, Any], _work: Path) -> dict[str, Any]:
    """Growth of this process, and the part of it that tensors take, in bytes."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import LlamaConfig, LlamaForCausalLM

    from qwenlong_core.rehearsal.on_cpu import in_pages

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    growth, kept = {}, []
    for layers in (1, FEW, MANY):  # one layer first: what libraries load and keep at their first use
        gc.collect()
        before = bytes_of("VmRSS")
        model = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=layers))
        for module in (*model.model.layers, model):
            fully_shard(module, mesh=mesh)
        optimizer, tokens = torch.optim.AdamW(model.parameters()), torch.zeros(1, 4, dtype=torch.long)
        for _ in range(4):
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        gc.collect()
        shares = sum(in_pages(4 * parameter.to_local().numel()) for parameter in model.parameters())
        growth[layers] = bytes_of("VmRSS") - before - 3 * shares
        kept.append((model, optimizer))  # else the next would lie where this one was
    return {"bytes": (growth[MANY] - growth[FEW]) / (MANY - FEW)}


def main() -> None:
    if any(os.environ.get(key) != value for key, value in HEAP.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | HEAP)
    shape = {
        "hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    found = on_each(grown, shape, 2)
    print("bytes a layer and process:", ", ".join(f"{rank['bytes']:,.0f}" for rank in found))


if __name__ == "__main__":
    main()
