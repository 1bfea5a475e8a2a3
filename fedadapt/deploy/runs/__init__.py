"""Runs on real clients: submitted, followed, judged, shown."""
