"""Everything that knows Flower: the two apps, its records, ours as Flower's, Flower's as ours."""
