"""What a training leaves beside the model's own files. A later phase reads it; an exported model does not hold it."""

SAMPLES = "samples.jsonl"
"""The best and the worst completion of each group."""
DIFFICULTY = "difficulty.json"
"""How hard each prompt was, for later phases to choose by."""
CARRIED = "optimizer"
"""Folder of the optimizer's state. The state cannot lie beside the weights: loaders take every ``.safetensors`` file
there for weights."""
ADAPTER = "adapter"
"""Folder of the adapter that was merged into the weights (:mod:`lora`), in peft's format."""

OF_TRAINING = (SAMPLES, DIFFICULTY, CARRIED, ADAPTER)
