"""Monitoring: descriptors of logged requests, drift against a pinned reference, alarms within a false-alarm budget."""
