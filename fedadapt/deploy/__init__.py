"""Real clients: a server and devices with pictures of their own, set up and run by commands."""
