"""Families of networks: a module a family, named in `dive.models.registry`. Importing one loads no torch."""
