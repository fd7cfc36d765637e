"""OMRL-Bench: a benchmark suite for offline meta-reinforcement learning."""
