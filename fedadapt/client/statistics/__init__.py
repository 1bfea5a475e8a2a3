"""What a client measures: activation sparsity, parameter importance, batch-norm statistics."""
