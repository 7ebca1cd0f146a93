"""One wish from end to end, one module each: outputs, locks, resuming, refusals."""
