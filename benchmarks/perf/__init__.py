"""Benchmarks of speed. Each module is a script, see docs/performance.md."""
