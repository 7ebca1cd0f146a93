"""The colours of the page in light and dark: Okabe and Ito's, which colour-blind readers can distinguish.

Figures have the light colours, which are also used in print; the page's script replaces them by the dark
ones. Style sheets have both by name.
"""

# Name to the colours in light and in dark. No two light ones are equal, as the dark one is looked up by it.
COLOURS = {
    "ink": ("#1c2128", "#e8ebf0"),
    "muted": ("#59636f", "#9ba6b4"),
    "rule": ("#e1e5ea", "#2d343e"),
    "panel": ("#ffffff", "#171c23"),
    "ground": ("#f4f6f8", "#0e1217"),
    "images": ("#8a949f", "#848f9c"),
    "many": ("#0072b2", "#56b4e9"),
    "medium": ("#e69f00", "#e69f00"),
    "few": ("#009e73", "#00b184"),
    "model1": ("#d55e00", "#e8742a"),
    "model2": ("#0072b3", "#56b4e9"),
    "model3": ("#cc79a7", "#cc79a7"),
    "model4": ("#009e74", "#00b184"),
    "model5": ("#e69f02", "#e69f00"),
    "model6": ("#56b4e8", "#0085d0"),
}
MODELS = tuple(name for name in COLOURS if name.startswith("model"))
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
MARKS = ("●", "■", "◆", "▲", "✚", "✖")  # the symbols as text


def light(name: str) -> str:
    """The light value of a colour, which figures have."""
    return COLOURS[name][0]


def of_model(place: int) -> str:
    """The name of a model's colour, by its position among the models of a page."""
    return MODELS[place % len(MODELS)]


def variables() -> str:
    """The colours as CSS variables: light ones, and dark ones if `data-theme` is dark, except in print."""
    light_ones, dark_ones = (
        "".join(f"--{name}:{both[side]};" for name, both in COLOURS.items()) for side in (0, 1)
    )
    printed = f"@media print{{:root[data-theme=dark]{{{light_ones}}}}}"
    return f":root{{{light_ones}}}\n:root[data-theme=dark]{{{dark_ones}}}\n{printed}\n"


def to_dark() -> dict[str, str]:
    """Light colours to the dark ones."""
    return dict(COLOURS.values())
