"""Compares the gateway with a bare pass-through and LiteLLM's proxy: requests lost and kept, and cost, under load."""
