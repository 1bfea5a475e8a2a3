"""The experiments of PFA (Liu et al. 2021), published beside measured."""
