"""The daemon: examines every app in turn, on a schedule, and carries out policies."""
