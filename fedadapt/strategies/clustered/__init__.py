"""Methods that find clusters of clients by other means than PFA, and federate inside each."""
