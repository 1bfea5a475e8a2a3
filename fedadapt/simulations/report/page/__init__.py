"""The report page: its data, its template, its style and its script."""
