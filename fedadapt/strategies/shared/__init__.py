"""Methods whose server holds one model: members of ``SharedModel``."""
