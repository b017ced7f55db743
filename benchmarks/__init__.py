"""Measurements on real input. Each module writes JSON to ``benchmarks/results/``; none asserts a time."""
