"""Logits that another program wrote, as files: a module a format and a line in `registry`."""
