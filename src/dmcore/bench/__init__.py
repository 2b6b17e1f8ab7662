"""Stages, the library calls that bound them, and pure Python beside both: behind `benchmarks/`."""
