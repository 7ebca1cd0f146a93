"""The teachers that a cache is of: a module a kind."""
