"""dive: distil virtual examples for long-tailed recognition from a logit cache."""

__version__ = "0.1.0"
