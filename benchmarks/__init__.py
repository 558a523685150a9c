"""Reproduces the docs' speed claims, as ratios from one run: `make bench`."""
