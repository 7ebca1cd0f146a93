"""The method of the paper: its losses, and the virtual examples of a cache."""
