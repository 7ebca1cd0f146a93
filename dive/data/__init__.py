"""Samples: where images come from, the long-tailed draw, and which classes are many, medium and few-shot."""
