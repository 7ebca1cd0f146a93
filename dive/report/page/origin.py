"""The origin of everything on the page: recipes, seeds, hashes, machines, versions and commands."""

from dive.progress import duration
from dive.recipe.teachers import teachers_name, teachers_of
from dive.report.page.content import CachePart, ModelPart, Page
from dive.report.page.markup import Markup, details, element, join, table
from dive.report.page.section import Section

NAME = "origin"
TITLE = "Recipes and origin"
LEAD = (
    "What each file was made from, and with which versions. The command makes the file again; what it leaves "
    "out is in the recipe. Equal hashes mean equal weights, images or logits."
)


def section(page: Page) -> Section:
    """The section: a block for each file."""
    models = (_of_model(name, model) for name, model in zip(page.names(), page.models, strict=True))
    caches = map(_of_cache, page.caches)
    made = element("p", f"This page was made by {page.producer}.", class_="note")
    return Section(NAME, TITLE, LEAD, join([*models, *caches, made]))


def _of_model(name: str, model: ModelPart) -> Markup:
    record = model.record
    network = record["architecture"]
    told = [
        ("file", model.file),
        ("network", f"{network['name']}, {network['parameters']:,} parameters"),
        ("initial weights", record.get("initial_weights", "")),
        ("seed", str(record["seed"])),
        ("trained", f"{record['epochs']} epochs in {duration(record['seconds'])}, {record['precision']}"),
        ("machine", record["device"]),
        ("versions", _listed(record["versions"])),
        ("producer", record.get("producer", "")),
        ("teacher", teachers_name(teachers) if (teachers := teachers_of(record)) else ""),
        ("weights", record["weights_hash"]),
        ("images", record["data_fingerprint"]),
        ("cache", record.get("cache_hash", "")),
    ]
    return _block(name, told, model.command, details("Recipe", element("pre", element("code", model.recipe))))


def _of_cache(cache: CachePart) -> Markup:
    return _block(f"Cache of {cache.model}", [("file", cache.file), *cache.origin], cache.command)


def _block(title: str, told: list[tuple[str, str]], command: str, *more: Markup) -> Markup:
    rows = [(name, value) for name, value in told if value]
    return element(
        "div",
        element("h3", title),
        *([element("pre", element("code", command), class_="command")] if command else []),
        table(("", ""), rows, title, words=2),
        *more,
        class_="origin",
    )


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
