"""``fedadapt new``: a working, tested starting point for a method of one's own."""
