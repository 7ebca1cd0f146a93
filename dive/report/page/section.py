"""A section of the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dive.report.page.markup import Markup, element
from dive.report.page.plots import Plot


@dataclass(frozen=True)
class Section:
    """A section. name: its id. title, lead: what it shows and how to read it. body: its HTML.

    plots: the figures that the script draws. data: further data for the script, under the section's name.
    """

    name: str
    title: str
    lead: str
    body: Markup
    plots: Sequence[Plot] = ()
    data: Any = field(default=None)

    def html(self) -> Markup:
        """The section as HTML."""
        heading = element("h2", self.title, id=f"{self.name}-title")
        lead = element("p", self.lead, class_="lead")
        return element(
            "section", heading, lead, self.body, id=self.name, aria_labelledby=f"{self.name}-title"
        )


def missing(sentence: str) -> Markup:
    """The content of a section without input: a sentence that says what to give."""
    return element("p", sentence, class_="missing")
