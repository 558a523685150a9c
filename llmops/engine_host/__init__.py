"""Local engines in one process of their own, which all workers of a gateway share.

The workers talk to it over a Unix domain socket: `client.open_remote` gives an engine like any other. A crash of the
engine ends neither the gateway nor its other requests, and `supervisor.EngineProcess` starts it again.
"""
