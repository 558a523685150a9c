"""Model files: where they come from, how they are kept by their sha256, and how they are quantised again."""
