"""Families of networks, one per module, listed in `dive.models.registry`. Importing one loads no torch."""
