"""What is claimed of the evaluation room, measured."""
