"""Training: the loop, the step, precision, the schedule, saved state and evaluation."""
