"""Engines: how simulated clients are computed, in processes of this machine or by Ray."""
