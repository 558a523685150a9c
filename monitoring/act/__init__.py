"""Act: the alarm book, alerts, policies and actions."""
