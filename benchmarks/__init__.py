"""Reproduces the speed claims of the docs, as ratios from one run: `make bench`."""
