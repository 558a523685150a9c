"""Act: the daemon, the book of alarms, alerts, policies and actions."""
