"""Pictures that belong to one client: read, cut into its three sets once, and remembered."""
