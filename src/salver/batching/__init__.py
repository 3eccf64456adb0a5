"""Several calls as one run: what may share one, how many at a time, and whose rows are whose."""
