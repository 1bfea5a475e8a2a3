"""What a device measures: activation sparsity, parameter importance, batch-norm statistics."""
