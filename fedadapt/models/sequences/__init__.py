"""Networks for time series and tokens, and what inputs a network takes."""
