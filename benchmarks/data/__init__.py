"""The offline data: behaviour policies, generation, storage and validation."""
