"""Clustering of vectors: distances, number of clusters, one-dimensional clustering."""
