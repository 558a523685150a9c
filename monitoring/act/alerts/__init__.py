"""Alerts: who is told of an alarm, how, and until it has arrived."""
