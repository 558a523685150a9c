"""The daemon: looks at every app in turns, on a schedule, and does what policies ask for."""
