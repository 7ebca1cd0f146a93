"""The sections of the page, in order: a section is a module beside this one and a line here."""

from collections.abc import Callable

from dive.report.page import accuracy, classes, confusion, curves, origin, pictures, virtual_examples
from dive.report.page.content import Page
from dive.report.page.section import Section

SECTIONS: tuple[Callable[[Page], Section], ...] = (
    virtual_examples.section,
    pictures.section,
    accuracy.section,
    classes.section,
    confusion.section,
    curves.section,
    origin.section,
)
