"""Partitioning: which device holds which images."""
