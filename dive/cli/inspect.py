"""`dive inspect`."""

from pathlib import Path
from typing import Any

import click

from dive.cli import options


@click.command("inspect")
@click.argument("file", type=options.FILE)
@options.apply(options.as_json)
def command(file: Path, as_json: bool) -> None:
    """Show what a cache or checkpoint contains.

    The seal of the file is checked first. For a shard, an unfinished export (.h5.part) or an unfinished run
    (.state), the progress is shown.

    \b
    Example:
      dive inspect cache/cifar100_lt_bbn.h5
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
    """The facts that people look for, each with its name; the JSON has everything."""
    from dive.files import readable_size
    from dive.structure import look_up

    def first(*paths: str) -> Any:
        """The value at the first path that exists. A file of another program may have any value, or none."""
        return next((value for found, value in (look_up(document, path) for path in paths) if found), None)

    recipe = first("recipe/name", "identity/recipe/name", "identity/recipe")
    lines: list[tuple[str, Any]] = [
        ("complete", "yes" if document["complete"] else "no"),
        ("format", document.get("format")),
        ("producer", document.get("producer")),
        ("size", readable_size(document["bytes"])),
        ("hash", document.get("hash")),
        ("shard", document.get("shard")),
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
        *_teachers(document),
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


def _teachers(document: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows on the teacher of a cache or student; for an ensemble its name, its members and their weights.

    Empty if the document does not state it.
    """
    from dive.recipe.teachers import teachers_in, teachers_name, teachers_of

    teachers = teachers_of(document) or teachers_of(document.get("facts"))
    given = document.get("identity")
    identity = given if isinstance(given, dict) else {}
    of_cache = teachers_in(identity)
    told = [f"{_teacher(one)}{_hash(of_cache, place)}" for place, one in enumerate(teachers)]
    if len(told) < 2:
        return [("teacher", line) for line in told]
    shares = identity.get("teacher_weights", document.get("teacher_weights"))
    return [
        ("teacher", teachers_name(teachers)),
        *((f"teacher {number}", line) for number, line in enumerate(told, 1)),
        ("weights of the teachers", _shares(shares)),
    ]


def _teacher(facts: dict[str, Any]) -> str:
    """A teacher in one line: its name, and what the document states of it."""
    from dive.recipe.teachers import teachers_name

    seed = f"seed {facts['seed']}" if "seed" in facts else ""
    prior = f"class prior {facts['prior']}" if "prior" in facts else ""
    return ", ".join(filter(None, (teachers_name([facts]), seed, prior, _percent(facts.get("accuracy", {})))))


def _hash(of_cache: list[Any], place: int) -> str:
    """The hash of the weights or logits of a cache's teacher, if the identity of the cache states it."""
    from dive.structure import look_up

    teacher = of_cache[place] if place < len(of_cache) else None
    told = {name: look_up(teacher, f"{name}_hash") for name in ("weights", "logits")}
    return "".join(f", {name} hash {value}" for name, (found, value) in told.items() if found)


def _shares(shares: Any) -> str:
    """The weights of the teachers in their mean; empty if the document does not state them."""
    from dive import structure

    told = structure.list_of(structure.share)(shares) is None
    return ", ".join(f"{share:.3g}" for share in shares) if told else ""


def _percent(accuracy: dict[str, float | None]) -> str:
    from dive.cli.tables import percent

    return ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in accuracy.items())


def _share(value: float | None) -> str | None:
    from dive.cli.tables import percent

    return None if value is None else f"{percent(value)} %"
