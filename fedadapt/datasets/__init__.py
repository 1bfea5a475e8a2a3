"""Benchmarks: the images of each client. ``registry`` has the names, ``load`` makes one."""
