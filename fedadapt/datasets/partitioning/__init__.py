"""Partitioning: which client holds which images."""
