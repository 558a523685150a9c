"""Benchmarks of the labs and of the serving of their models."""
