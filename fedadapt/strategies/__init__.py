"""Methods, one paper (or one family) a file, each with both of its sides."""
