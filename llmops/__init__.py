"""llmops: evaluate a prompt or model version, gate it, serve it as a release, and monitor its answers.

docs/glossary.md defines the terms; ARCHITECTURE.md describes the packages and which may import which.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
