"""A training step on devices that do not exist, to learn what it takes before it is paid for."""
