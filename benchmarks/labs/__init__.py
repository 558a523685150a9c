"""Benchmarks of the labs and of what serves their models."""
