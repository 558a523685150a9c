"""Benchmarks of the evaluation package's claims."""
