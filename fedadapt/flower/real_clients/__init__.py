"""What real clients need beside the two apps: warm answers, lines of progress, exit codes."""
