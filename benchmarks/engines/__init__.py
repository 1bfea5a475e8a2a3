"""The engines that are compared: each runs rounds of a work until its clock has had enough."""
