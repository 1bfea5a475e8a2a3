"""Runs and comparisons from Python: ``fedadapt.simulate``, ``fedadapt.compare``, their results."""
