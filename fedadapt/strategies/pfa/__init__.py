"""PFA (Liu et al. 2021): devices grouped by sparsity, a model a group."""
