"""A section of the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dive.report.page.markup import Markup, element
from dive.report.page.plots import Plot


@dataclass(frozen=True)
class Section:
    """A section. name: its id. title, lead: what it is, and how it is read. body: its HTML.

    plots: of its figures, those the script draws. data: more for the script, under the section's name.
    """

    name: str
    title: str
    lead: str
    body: Markup
    plots: Sequence[Plot] = ()
    data: Any = field(default=None)

    def html(self) -> Markup:
        """It as HTML."""
        heading = element("h2", self.title, id=f"{self.name}-title")
        lead = element("p", self.lead, class_="lead")
        return element(
            "section", heading, lead, self.body, id=self.name, aria_labelledby=f"{self.name}-title"
        )


def missing(sentence: str) -> Markup:
    """What stands in a section whose input was not given: what would bring it."""
    return element("p", sentence, class_="missing")
