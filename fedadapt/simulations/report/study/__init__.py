"""Several runs on one page: a comparison, a sweep or a reproduction."""
