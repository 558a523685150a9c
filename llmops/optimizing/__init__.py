"""Prompt optimisation: candidates are chosen by some rows of a suite, and judged once by others that nobody chose by.

`optimization` has the whole course; `split` parts the rows, `candidates` makes prompts, `race` chooses among them.
"""
