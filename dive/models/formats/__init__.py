"""Formats of exported networks, which run without dive: one module and one line in `registry` per format."""
