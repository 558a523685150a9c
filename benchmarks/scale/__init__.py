"""The capacity model: costs measured, a queue of them checked against measured latencies, and what a load needs."""
