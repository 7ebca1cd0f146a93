"""The page of `dive report`: a module a section, and what they are put together with."""
