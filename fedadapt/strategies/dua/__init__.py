"""DUA (De Lange et al. 2020): experts of the server, merged for each user."""
