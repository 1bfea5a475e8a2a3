"""The experiments of DUA (De Lange et al. 2020), published beside measured."""
