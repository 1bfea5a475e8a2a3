"""The results of a run: journals, tables, the summary and the run folder."""
