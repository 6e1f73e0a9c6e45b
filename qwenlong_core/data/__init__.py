"""Training and evaluation data: sources, preparation, prompts, generated documents."""
