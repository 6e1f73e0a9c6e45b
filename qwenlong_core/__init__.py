"""The method: long-context reasoning by reinforcement learning, after QwenLong-L1 (arXiv 2505.17667)."""
