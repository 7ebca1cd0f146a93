"""Formats of files of logits that other programs wrote: one module per format and one line in `registry`."""
