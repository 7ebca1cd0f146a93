"""Figures, and the page of `dive report`."""
