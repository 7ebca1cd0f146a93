"""`dive inspect`."""

from pathlib import Path
from typing import Any

import click

from dive.cli import options


@click.command("inspect")
@click.argument("file", type=options.FILE)
@options.apply(options.as_json)
def command(file: Path, as_json: bool) -> None:
    """Show what a cache or a checkpoint is.

    Its seal is checked first. Of an unfinished export (.h5.part) or run (.state) it shows how far it is.
    """
    from dive.workflows.inspect import inspect

    document = inspect(file)
    if as_json:
        options.print_json(document)
    else:
        _print_table(document)


def _print_table(document: dict[str, Any]) -> None:
    from dive.cli.tables import cell, new_table, print_table

    table = new_table(f"{document['file']}: {document['kind']}", ["what"], [])
    table.show_header = False
    table.add_column(overflow="fold")
    for name, value in _lines(document):
        table.add_row(cell(name), cell(value))
    print_table(table)


def _lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know, each with its name; the JSON has everything."""
    from dive.files import readable_size
    from dive.structure import look_up

    def first(*paths: str) -> Any:
        """What is there at the first of the paths; a foreign file may have anything, or nothing, there."""
        return next((value for found, value in (look_up(document, path) for path in paths) if found), None)

    recipe = first("recipe/name", "identity/recipe/name", "identity/recipe")
    teacher = first("teacher", "facts/teacher")
    lines: list[tuple[str, Any]] = [
        ("complete", "yes" if document["complete"] else "no"),
        ("format", document.get("format")),
        ("producer", document.get("producer")),
        ("size", readable_size(document["bytes"])),
        ("hash", document.get("hash")),
        ("done", _done(document)),
        ("shape", _shape(document)),
        ("recipe", recipe),
        ("seed", document.get("seed")),
        (
            "data",
            _listed(
                first("recipe/data", "identity/data", "identity/recipe/data"),
                ("kind", "imbalance", "seed", "test_share", "val_share"),
            ),
        ),
        ("data fingerprint", first("data_fingerprint", "identity/data_fingerprint")),
        ("view space", _listed(first("identity/view_space"), ("kind", "pad", "flip"))),
        ("stored views", first("identity/views")),
        ("model", _listed(document.get("architecture"), ("name", "parameters"))),
        ("initial weights", document.get("initial_weights")),
        ("weights hash", document.get("weights_hash")),
        ("teacher", _teacher(teacher, first("identity/teacher/weights_hash"))),
        ("cache hash", document.get("cache_hash")),
        ("test accuracy", _percent(document.get("accuracy", {}))),
        ("validation accuracy", _percent(document.get("val_accuracy", {}))),
        ("accuracy over the stored views", _share(document.get("stored_views_accuracy"))),
        ("precision", first("precision", "facts/precision")),
        ("made with", _listed(first("versions", "facts/versions"))),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "")]


def _listed(values: Any, keys: tuple[str, ...] | None = None) -> str:
    if not isinstance(values, dict):
        return ""
    chosen = values if keys is None else {key: values.get(key) for key in keys}
    return ", ".join(f"{key} {value}" for key, value in chosen.items() if value is not None)


def _done(document: dict[str, Any]) -> str:
    for unit in ("blocks", "epochs"):
        if f"{unit}_done" in document:
            return f"{document[f'{unit}_done']} of {document[unit]} {unit}"
    return ""


def _shape(document: dict[str, Any]) -> str:
    if "samples" not in document:
        return ""
    shape = f"{document['samples']} samples × {document['views']} views × {document['classes']} classes"
    return f"{shape}, {document['store']}" if "store" in document else shape


def _teacher(facts: Any, weights: Any) -> str:
    """The model that a cache or a student was made from, in a line; nothing where that is not told."""
    from dive.recipe.records import TEACHER, model_name
    from dive.structure import fault_of

    if facts is None or fault_of(facts, TEACHER):
        return ""
    name = model_name(facts["kind"], facts)
    accuracy = _percent(facts["accuracy"])
    return f"{name}, seed {facts['seed']}, {accuracy}" + (f", weights hash {weights}" if weights else "")


def _percent(accuracy: dict[str, float | None]) -> str:
    from dive.cli.tables import percent

    return ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in accuracy.items())


def _share(value: float | None) -> str | None:
    from dive.cli.tables import percent

    return None if value is None else f"{percent(value)} %"
