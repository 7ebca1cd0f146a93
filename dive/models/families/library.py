"""What families have in common whose networks come from a library: `library/name`."""

from dive.models.families.family import Family


class Library(Family):
    """A family of which every name begins with `prefix`."""

    prefix: str

    def belongs(self, name: str) -> bool:
        """Whether the name begins with the prefix."""
        return name.startswith(self.prefix)

    def inner(self, name: str) -> str:
        """The library's own name of a network."""
        return name.removeprefix(self.prefix)
