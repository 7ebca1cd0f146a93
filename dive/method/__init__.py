"""The paper: its losses, and virtual examples over a cache."""
