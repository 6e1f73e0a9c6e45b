"""What a profile needs before it runs: memory, disk, time and money, and the nearest settings that fit."""
