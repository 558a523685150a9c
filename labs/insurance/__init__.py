"""Predicts the claims of a car insurer, with and without the accidents of an area. The truth is known."""
