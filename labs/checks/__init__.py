"""`llmops lab check`: what a learner's home already shows of a module of the course, and what is still missing.

Everything is recomputed from the home: registered weights are asked again, answers are read from the production log,
moves from the audit log. Nothing is believed because a file is there. Nothing is written but the learner's answers.
"""

from labs.checks.check import Achievement, ModuleCheck, Question, check_module

__all__ = ["Achievement", "ModuleCheck", "Question", "check_module"]
