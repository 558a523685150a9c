"""Predicts from which of three cultivars a wine is made, from its chemical analysis."""
