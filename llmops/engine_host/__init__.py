"""Local engines in a separate process, which all workers of a gateway share.

The workers use it over a Unix domain socket: `client.RemoteEngine` is an engine like any other. A crash of an
engine ends neither the gateway nor its other requests, and `supervisor.EngineProcess` restarts the process.
"""
