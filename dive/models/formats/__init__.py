"""The formats that a network is exported in, to run without dive: a module each, a line in `registry`."""
