"""llmops: evaluate a prompt or model version, gate it, serve it as a release, and watch what it answers.

The words used here are defined in docs/glossary.md; ARCHITECTURE.md shows the rooms and who may import whom.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
