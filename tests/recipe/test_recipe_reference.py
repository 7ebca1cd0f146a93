"""docs/recipe.md is what the dataclasses of the recipe say, and what it says of a key is so."""

import dataclasses
import re
from collections.abc import Iterator

import pytest
import recipe_reference

from dive.errors import RecipeError
from dive.recipe.reading import load
from dive.recipe.recipe import KINDS, Recipe

GREY = ("model.input.mean=[0.3]", "model.input.std=[0.3]", "views.flip=false")  # what digits need
NUMBER = r"\d[\d ]*(?:\.\d+)?(?:e-?\d+)?"


def test_the_page_is_what_would_be_written(repository):
    found = (repository / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert found == recipe_reference.page(), "make docs writes it again"


def rows() -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each row of the page's tables, with the assignments that choose the kind it is of."""
    part, chosen = "", ()
    for line in recipe_reference.page().splitlines():
        if heading := re.fullmatch(r"##+ (kind: )?([\w. ]+?)( \(default\))?", line):
            of_kind, name, _ = heading.groups()
            part = part if of_kind else name
            chosen = (f"{part}.kind={name}", *(GREY if name == "digits" else ())) if of_kind else ()
        elif line.startswith("| `"):
            yield chosen, line.removeprefix("| ").removesuffix(" |").split(" | ")


ROWS = [
    pytest.param(chosen, cells, id="".join([*chosen[:1], ":", cells[0].strip("`")]))
    for chosen, cells in rows()
]


def keys_of(document: dict, prefix: str = "") -> list[str]:
    """The dotted keys of a document but for kinds."""
    found = []
    for key, value in document.items():
        found += keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return [key for key in found if not key.endswith("kind")]


def test_the_page_has_every_key_of_every_kind_and_no_other():
    wanted = [
        ((), key) for key in keys_of(dataclasses.asdict(Recipe())) if key.partition(".")[0] not in KINDS
    ]
    for part, kinds in KINDS.items():
        for kind, cls in kinds.items():
            keys = keys_of(dataclasses.asdict(cls()), f"{part}.")
            wanted += [((f"{part}.kind={kind}", *(GREY if kind == "digits" else ())), key) for key in keys]
    assert sorted(wanted) == sorted((chosen, cells[0].strip("`")) for chosen, cells in rows())


@pytest.mark.parametrize(("chosen", "cells"), ROWS)
def test_a_row_can_be_read(chosen, cells):
    assert len(cells) == 5 and all(cells), cells
    assert all(len(cell) <= 100 and "|" not in cell for cell in cells)
    assert not cells[4].endswith(".") and cells[4].count("`") % 2 == 0


@pytest.mark.parametrize(("chosen", "cells"), ROWS)
def test_the_default_of_a_key_can_be_given_and_changes_nothing(chosen, cells):
    default = f"{cells[0]}={cells[2]}".replace("`", "")
    assert load(None, (*chosen, default)) == load(None, chosen)


def complaint(chosen: tuple[str, ...], key: str, value: str) -> str:
    """What is said of a key's value alone: not that it contradicts another key."""
    try:
        load(None, (*chosen, f"{key}={value}"))
    except RecipeError as error:
        return next((fault for fault in str(error).split("; ") if f"{key} must be " in fault), "")
    return ""


def value_of(text: str) -> int | float:
    digits = text.replace(" ", "").replace("2⁶³−1", str(2**63 - 1))
    return int(digits) if digits.isdigit() else float(digits)


RANGES = [row for row in ROWS if re.fullmatch(rf"{NUMBER} to ({NUMBER}|2⁶³ − 1)", row.values[1][3])]


def test_most_keys_of_numbers_have_a_range():
    of_numbers = [row for row in ROWS if re.match("integer|number", row.values[1][1])]
    assert {row.id for row in of_numbers} <= {row.id for row in RANGES} and len(RANGES) > 40


@pytest.mark.parametrize(("chosen", "cells"), RANGES)
def test_a_range_is_what_is_taken(chosen, cells):
    key, kind, default, allowed = (cell.strip("`") for cell in cells[:4])
    low, high = map(value_of, allowed.split(" to "))
    below, above = (low - 1, high + 1) if "integer" in kind else (low * 0.99 or -1e-9, high * 1.01)
    count = default.count(",") + 1 if "list" in kind else 0
    for value, taken in ((low, True), (high, True), (below, False), (above, False)):
        text = f"[{', '.join([str(value)] * count)}]" if count else str(value)
        assert ("must be >= " in complaint(chosen, key, text)) is not taken, text


CHOICES = [row for row in ROWS if re.fullmatch(r"\w+(, \w+)* or \w+", row.values[1][3])]


@pytest.mark.parametrize(("chosen", "cells"), CHOICES)
def test_the_choices_are_those_that_are_taken(chosen, cells):
    key, choices = cells[0].strip("`"), re.split(", | or ", cells[3])
    assert all(not complaint(chosen, key, choice) for choice in choices)
    assert complaint(chosen, key, "another").endswith(f"must be one of {', '.join(choices)}, not 'another'")


def test_a_list_of_other_numbers_is_said_in_words():
    told = {cells[0].strip("`"): cells[3] for _, cells in rows()}
    assert told["views.scale"] == "two numbers from 0.0001 to 1, the smaller first"
    assert told["views.jitter"] == "4 numbers: 0 to 10, 0 to 10, 0 to 10, 0 to 0.5"
    assert len(CHOICES) == 4
    assert {cells[1] for _, cells in rows() if cells[3] == "any"} == {"true/false"}


def test_null_is_taken_where_the_page_says_so():
    for chosen, cells in rows():
        key = cells[0].strip("`")
        refused = re.search("must be (a|true) ", complaint(chosen, key, "null"))
        assert bool(refused) is not cells[1].endswith(" or null"), key


def dataclasses_of_a_recipe() -> Iterator[type]:
    """Every dataclass with keys: those of kinds, and those within others."""
    waiting = [Recipe, *(cls for kinds in KINDS.values() for cls in kinds.values())]
    for cls in waiting:
        yield cls
        inner = [one.default_factory for one in dataclasses.fields(cls)]
        waiting += [one for one in inner if dataclasses.is_dataclass(one) and one not in waiting]


def test_every_key_says_what_it_means():
    silent, count = [], 0
    for cls in dataclasses_of_a_recipe():
        for one in dataclasses.fields(cls):
            if one.name != "kind" and not dataclasses.is_dataclass(one.default_factory):
                count += 1
                silent += [] if one.metadata.get("about") else [f"{cls.__name__}.{one.name}"]
    assert silent == [] and count > 60


def test_the_example_is_a_recipe(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", recipe_reference.page(), flags=re.DOTALL)
    assert example.count("\n") == 6
    (tmp_path / "my.yaml").write_text(example)
    (tmp_path / "other.yaml").write_text("seed: 3\n")
    recipe = load(tmp_path / "my.yaml")
    assert (recipe.name, recipe.seed, recipe.data.root) == ("my", 3, "my_images")


def test_a_link_within_the_page_leads_to_a_heading():
    page = recipe_reference.page()
    headings = re.findall("^#+ (.*)$", page, flags=re.MULTILINE)
    kept = [
        "".join(c for c in heading if c.isalnum() or c in "-_ ").replace(" ", "-") for heading in headings
    ]
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(kept) and len(set(kept)) == len(kept)
