"""Task-incremental benchmarks: the server learns task after task, users have images of each."""
