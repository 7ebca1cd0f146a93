"""The teachers of a cache: one module for each kind."""
