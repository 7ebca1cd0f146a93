"""The teachers of a cache: one module per kind of teacher."""
