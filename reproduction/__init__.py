"""The project's own experiments: which runs are made, and RESULTS.md rebuilt from their records."""
