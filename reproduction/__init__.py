"""The project's own experiments: the table of runs, and RESULTS.md, built from their records."""
