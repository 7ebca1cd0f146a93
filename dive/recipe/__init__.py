"""The keys of a recipe, how it is read and checked, and records of finished results."""
