"""Memory by formula against the trainer's step on fake devices: 14B over 8 GPUs, 32B over 32."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plans import A3B, B14, B32, H100, of, plan_of

from qwenlong_core.plan.adapter import trained
from qwenlong_core.plan.disk import disk_of
from qwenlong_core.plan.memory import GIB, Length, grpo_memory, host_bytes, sft_memory

UNSHARED = ("launch.sequence_parallel=1",)


def peak(shape, profile: str, prompt: int, completion: int, *overrides: str) -> tuple[float, dict[str, float]]:
    """GiB of the backward without the engine and the reserve, which a fake device does not have."""
    settings = of(profile, *UNSHARED, *overrides)
    memory = grpo_memory(shape, settings, H100, Length(prompt, completion, 1, 8))
    terms = {name: value / GIB for name, value in memory.instants["backward"].items()}
    return sum(terms.values()) - terms["engine"] - terms["reserve"], terms


@pytest.mark.parametrize(
    ("prompt", "completion", "kept", "layer", "plain", "offloaded"),
    [
        (20_000, 2_000, 16.6, 9.5, 56.1, 39.6),
        (20_000, 10_000, 45.8, 26.4, 102.3, 56.5),
        (60_000, 2_000, 34.8, 20.1, 85.0, 50.2),
        (60_000, 10_000, 64.1, 36.9, 131.2, 67.1),
        (120_000, 2_000, 62.3, 35.9, 128.3, 66.1),
        (120_000, 10_000, 91.7, 52.7, 174.5, 83.0),
    ],
)
def test_14b_on_8(prompt, completion, kept, layer, plain, offloaded):
    """Those figures reduce gradients in bfloat16; ours are in float32, which was measured as 2.3 GiB more."""
    total, terms = peak(B14, "8gpu-14b", prompt, completion)
    assert terms["kept activations"] == pytest.approx(kept, rel=0.01)
    gathered = 12 * B14.layer / GIB
    assert terms["one layer"] - gathered == pytest.approx(layer, rel=0.02)
    assert total == pytest.approx(plain + 2.3, rel=0.01)
    assert peak(B14, "8gpu-14b", prompt, completion, "launch.activation_offload=true")[0] == pytest.approx(
        offloaded + 2.3, rel=0.06
    )


@pytest.mark.parametrize(
    ("prompt", "completion", "kept", "layer"),
    [(20_000, 2_000, 22, 15), (60_000, 10_000, 86, 59), (120_000, 10_000, 122, 84)],
)
def test_32b_on_32(prompt, completion, kept, layer):
    _, terms = peak(B32, "32b", prompt, completion)
    assert terms["kept activations"] == pytest.approx(kept, rel=0.02)
    assert terms["one layer"] - 12 * B32.layer / GIB == pytest.approx(layer, rel=0.03)
    assert terms["weights"] == pytest.approx(3.8, abs=0.05)
    assert terms["optimizer"] == pytest.approx(7.6, abs=0.05)


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ({}, 9.821),
        ({"active": 4}, 6.246),
        ({"intermediate": 1536}, 11.469),
        ({"heads": 16}, 9.130),
        ({"hidden": 1024}, 6.526),
    ],
    ids=str,
)
def test_30b_with_experts(change, layer):
    """``one layer`` of a rehearsal of three layers at P=20,000, C=2,000."""
    shape = replace(A3B, **change)
    _, terms = peak(shape, "l1.5-30b", 20_000, 2_000)
    assert terms["one layer"] - 12 * shape.layer / GIB == pytest.approx(layer, rel=0.002)
    assert terms["kept activations"] == pytest.approx(48 * 36_000 * 2 * shape.hidden / GIB, rel=1e-3)
    assert terms["weights"] == pytest.approx(4 * shape.parameters / 32 / GIB)


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, 19.577), ({"active": 4}, 13.794), ({"intermediate": 1536}, 24.520), ({"hidden": 1024}, 14.633)],
    ids=str,
)
def test_30b_with_experts_without_checkpointing(change, kept):
    """``kept activations`` of the same rehearsals."""
    _, terms = peak(replace(A3B, layers=3, **change), "l1.5-30b", 20_000, 2_000, "launch.gradient_checkpointing=false")
    assert terms["kept activations"] == pytest.approx(kept, rel=0.002)


def test_a_process_holds_whole_experts():
    few = replace(A3B, experts=40)  # two each for some of 32 processes, one for the others
    _, terms = peak(few, "l1.5-30b", 20_000, 2_000)
    experts = 40 * 48 * few.mlp
    assert terms["weights"] == pytest.approx(4 * (experts * 2 / 40 + (few.parameters - experts) / 32) / GIB)


def test_a_row_that_eight_share_needs_an_eighth_of_the_activations():
    alone = peak(B14, "8gpu-14b", 60_000, 10_000)[1]
    settings = of("8gpu-14b")
    shared = grpo_memory(B14, settings, H100, Length(60_000, 10_000, 1, 8)).instants["backward"]
    assert shared["kept activations"] / GIB == pytest.approx(alone["kept activations"] / 8)


def test_the_profiles_as_they_ship_fit_and_without_sharing_a_row_they_do_not():
    assert plan_of("8gpu-14b").fits
    assert plan_of("32b").fits
    assert plan_of("l1.5-30b").fits
    faults = plan_of("8gpu-14b", *UNSHARED).faults
    assert [fault.partition(" ")[0] for fault in faults] == ["grpo-1", "grpo-2", "grpo-3"]
    assert "GiB of 79.6 at its longest row (backward): kept activations" in faults[0]


def test_an_engine_that_takes_too_much_does_not_fit_beside_the_weights():
    assert "(rollouts): engine 71.7" in plan_of("8gpu-14b", "grpo.vllm.memory_share=0.9").faults[0]


def test_an_engine_that_does_not_sleep_stays():
    settings = of("8gpu-14b", "grpo.vllm.sleep=false")
    instants = grpo_memory(B14, settings, H100, Length(20_000, 4_000, 1, 8)).instants
    assert instants["backward"]["engine"] == instants["rollouts"]["engine"] == 0.5 * H100.memory


def test_offload_needs_the_host():
    """0.8 TB a node were estimated for 14B without sharing, of which pinned blocks round up to powers of two."""
    moved = of("8gpu-14b", *UNSHARED, "launch.activation_offload=true")
    length = Length(120_000, 10_000, 1, 8)
    grown = host_bytes(B14, moved, H100, length) - host_bytes(B14, of("8gpu-14b", *UNSHARED), H100, length)
    assert grown / 8 / GIB == pytest.approx(92, rel=0.01)
    assert (
        "plan.host_memory_gib=500"
        in plan_of("8gpu-14b", *UNSHARED, "launch.activation_offload=true", "plan.host_memory_gib=500").faults[-1]
    )


def test_a_checkpoint_is_copied_to_the_host_while_it_is_written():
    """Each of eight GPUs copies its eighth of 12 bytes a parameter; on a CPU the copy is beside what trains."""
    length = Length(1_000, 100, 1, 8)
    assert host_bytes(B14, of("8gpu-14b"), H100, length) == pytest.approx(8 * 5 * GIB + 12 * B14.parameters)
    assert grpo_memory(B14, of("8gpu-14b"), H100, length).terms["checkpoint"] == 0
    own = plan_of("local")
    phase = next(stage for stage in own.stages if stage.name == "grpo-1")
    assert {terms["checkpoint"] for terms in phase.longest.instants.values()} == {12.0 * own.shape.parameters}


def test_sft_rows():
    """54 and 49 GB of 1e9 bytes were estimated for rows of 20K tokens that are not cut; eight ranks keep an eighth."""
    for shape, profile, gb in ((B14, "8gpu-14b", 54), (B32, "32b", 49)):
        memory = sft_memory(shape, of(profile, "launch.sequence_parallel=1"), H100, 20_000)
        assert (memory.peak - memory.terms["reserve"]) / 1e9 == pytest.approx(gb, rel=0.12)
        cut = sft_memory(shape, of(profile), H100, 20_000)
        assert cut.instants["backward"]["kept activations"] * 8 == memory.instants["backward"]["kept activations"]


LORA = ("launch.num_processes=1", "launch.accelerate_config=none", *UNSHARED, "lora.rank=32")
ADAPTER = 48 * 32 * (2 * (5120 + 5120) + 2 * (5120 + 1024) + 3 * (5120 + 13824))
"""Of 14B: queries and outputs, keys and values, the three products of the MLP."""


def test_an_adapter_alone_has_gradients_and_an_optimizer():
    """14B on one card, by hand: two bytes a frozen weight, 4 + 4 + 8 a number of the adapter."""
    assert ADAPTER == 137_625_600
    settings = of("8gpu-14b", *LORA, "grpo.vllm.tensor_parallel=1")
    length = Length(4_000, 1_000, 1, 8)
    terms = grpo_memory(B14, settings, H100, length).instants["backward"]
    assert terms["weights"] == 2 * B14.parameters + 4 * ADAPTER
    assert terms["gradients"] == 4 * ADAPTER
    assert terms["optimizer"] == 8 * ADAPTER
    two = of("8gpu-14b", *LORA, "grpo.vllm.tensor_parallel=1", 'lora.targets=["q_proj", "v_proj"]')
    assert trained(B14, two.lora) == 48 * 32 * (5120 + 5120 + 5120 + 1024)
    assert trained(B14, None) == B14.parameters
    assert host_bytes(B14, settings, H100, length) == 5 * GIB + 2 * B14.parameters, "the merged policy"
    disk = disk_of(B14, settings, sft_steps=100)
    assert (disk.checkpoint, disk.policy) == (12 * ADAPTER, 2 * B14.parameters)


@pytest.mark.parametrize(
    ("shape", "prompt", "completion", "layer"), [(B14, 20_000, 2_000, 11.83), (B32, 10_000, 1_000, 9.20)]
)
def test_an_adapter_s_casts(shape, prompt, completion, layer):
    """``one layer`` of rehearsals of three layers at rank 32, without what autocast copies."""
    settings = of("8gpu-14b", *LORA, "grpo.vllm.tensor_parallel=1")
    terms = grpo_memory(shape, settings, H100, Length(prompt, completion, 1, 8)).instants["backward"]
    assert (terms["one layer"] - 2 * trained(shape, settings.lora)) / GIB == pytest.approx(layer, rel=0.01)


def test_14b_fits_one_card_with_an_adapter_only():
    short = [f"grpo.phases.{i}.max_{part}_tokens={n}" for i, p in enumerate((2000, 3000, 4000))
             for part, n in (("prompt", p), ("completion", 1000))]  # fmt: skip
    one = ("launch.num_processes=1", "launch.accelerate_config=none", *UNSHARED, "grpo.vllm.tensor_parallel=1", *short)
    full = plan_of("8gpu-14b", *one, "sft.max_tokens=4000", "distill.max_prompt_tokens=2000")
    assert "weights 55.0" in full.faults[0]
    assert plan_of("8gpu-14b", *one, "sft.max_tokens=4000", "distill.max_prompt_tokens=2000", "lora.rank=32").fits


def test_experts_have_no_adapter():
    plan = plan_of("l1.5-30b", "launch.accelerate_config=none", *UNSHARED, "lora.rank=32")
    assert plan.faults[0].startswith("lora does not reach the experts of model.name='Qwen/Qwen3-30B-A3B")


def test_checkpoints_on_disk():
    for shape, profile, checkpoint in ((B14, "8gpu-14b", 177e9), (B32, "32b", 393e9)):
        disk = disk_of(shape, of(profile, "sft.save_steps=1000"), sft_steps=100)
        assert disk.checkpoint == pytest.approx(checkpoint, rel=0.005)
        assert disk.written == pytest.approx(130 * checkpoint, rel=0.005)
        assert disk.store == pytest.approx(5 * checkpoint / 6, rel=0.005), "five policies in bfloat16"
        kept = disk_of(shape, of(profile, "storage.keep_checkpoints=true"), sft_steps=100)
        assert kept.store == pytest.approx(disk.store + 8 * checkpoint, rel=0.005), "two of each training"
