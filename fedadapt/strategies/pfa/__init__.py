"""PFA (Liu et al. 2021): clients grouped by sparsity, a model a group."""
