"""The capacity model: what is measured here, a queueing simulation checked against it, and what a large load needs."""
