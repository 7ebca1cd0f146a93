"""Networks by name, their checkpoints, and the formats in which they are exported."""
