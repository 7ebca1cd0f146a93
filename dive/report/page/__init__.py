"""The page of `dive report`: one module for each section, and the modules that they share."""
