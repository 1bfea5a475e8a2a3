"""Engines: how simulated devices are computed, in processes of this machine or by Ray."""
