"""How the monitoring half is measured."""
