"""How training went: loss, accuracies and learning rate over epochs."""

from collections.abc import Sequence

import plotly.graph_objects as go

from dive.report.page.accuracy import WITHOUT
from dive.report.page.content import ModelPart, Page
from dive.report.page.markup import Markup, element, join, number, percent, table
from dive.report.page.palette import light, of_model
from dive.report.page.plots import Plot, figure, labels, model_keys
from dive.report.page.section import Section, missing

NAME = "training"
TITLE = "Training"
LEAD = (
    "The values of each epoch. A student’s loss has other terms than its teacher’s, so the two should not be "
    "compared. Training accuracy is on the augmented views, during training; test accuracy is shown for the "
    "epochs in which it was measured."
)
_DRAWN = {
    "loss": (("loss",), "mean loss of the epoch (nats)", 1, "linear"),
    "accuracy": (("train_accuracy", "val_accuracy", "test_accuracy"), "accuracy (%)", 100, "linear"),
    "learning rate": (("lr",), "learning rate at the epoch’s end", 1, "log"),
}
_STYLES = {"val_accuracy": "dot", "test_accuracy": "dash"}


def section(page: Page) -> Section:
    """The section: a figure of the models that have a history file, and a list of those that have none."""
    if not page.models:
        return Section(NAME, TITLE, LEAD, missing(WITHOUT))
    lacking = [model.file for model in page.models if not model.history]
    notes = [
        missing(f"{file} has no history beside it (NAME.history.jsonl), which training writes.")
        for file in lacking
    ]
    if len(lacking) == len(page.models):
        return Section(NAME, TITLE, LEAD, join(notes))
    names = page.names()
    keys = [key for key, model in zip(model_keys(names), page.models, strict=True) if model.history]
    plot = Plot(
        "training-curves",
        "Over epochs",
        "Loss, accuracy or learning rate of each model over its epochs.",
        {name: _lines(page.models, names, *how) for name, how in _DRAWN.items()},
        keys,
        table=_table(page.models, names),
    )
    return Section(NAME, TITLE, LEAD, element("div", plot.html(), *notes), [plot])


def _lines(
    models: Sequence[ModelPart],
    names: Sequence[str],
    keys: Sequence[str],
    title: str,
    factor: float,
    scale: str,
) -> go.Figure:
    y = {"title": title, "type": scale} | ({"tickformat": "~g", "dtick": 1} if scale == "log" else {})
    drawn = figure({"title": "epoch"}, y, hovermode="closest")
    for place, (name, model) in enumerate(zip(labels(names), models, strict=True)):
        for key in keys:
            epochs = [one for one in model.history or () if one.get(key) is not None]
            if not epochs:
                continue
            what = key.replace("_", " ")
            drawn.add_scatter(
                x=[one["epoch"] for one in epochs], y=[factor * one[key] for one in epochs],
                mode="lines+markers" if len(epochs) < 3 else "lines", legendgroup=f"m{place}",
                line={"color": light(of_model(place)), "width": 2, "dash": _STYLES.get(key, "solid")},
                marker={"size": 9}, customdata=[name] * len(epochs),
                hovertemplate=f"<b>%{{customdata}}</b><br>epoch %{{x}}: {what} %{{y:.4~g}}<extra></extra>",
            )  # fmt: skip
    return drawn


def _table(models: Sequence[ModelPart], names: Sequence[str]) -> Markup:
    """A table with the last epoch of each model; a history has hundreds of epochs."""
    rows = [
        [
            name,
            str(last["epoch"]),
            number(last["loss"], 4),
            percent(last["train_accuracy"]),
            percent(last.get("val_accuracy")),
            percent(last.get("test_accuracy")),
        ]
        for name, model in zip(names, models, strict=True)
        if model.history
        for last in model.history[-1:]
    ]
    heads = ["model", "epochs", "loss", "training accuracy", "validation accuracy", "test accuracy"]
    return table(heads, rows, "The last epoch")
