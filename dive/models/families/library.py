"""The base class of families whose networks come from a library: `library/name`."""

from dive.models.families.family import Family


class Library(Family):
    """A family whose names all begin with `prefix`."""

    prefix: str

    def belongs(self, name: str) -> bool:
        """Whether the name begins with the prefix."""
        return name.startswith(self.prefix)

    def inner(self, name: str) -> str:
        """The name of a network in the library, without the prefix."""
        return name.removeprefix(self.prefix)
