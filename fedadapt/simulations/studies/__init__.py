"""Studies of many runs: settings that are tried, compared and chosen."""
