"""What an experiment is: its keys, how it is read and checked, and the record of what came of it."""
