"""Recipes by name: what `--config` finds where, and the list of `dive recipes`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import chain
import pytest

from dive.cli.options import read_recipe
from dive.errors import RecipeError
from dive.recipe.reading import load
from dive.recipe.shipped import locate, recipes

OWN = "name: own\nseed: 7\n"


def names_in(configs: Path) -> set[str]:
    """The recipes of the source tree by name, found without the module that is tested."""
    found = (
        os.path.relpath(os.path.join(folder, file), configs)
        for folder, _, files in os.walk(configs)
        for file in files
    )
    return {name.removesuffix(".yaml") for name in found if name.endswith(".yaml")}


@pytest.mark.parametrize("name", ["cifar10_lt/balms_if50", "cifar10_lt/balms_if50.yaml", "folder"])
def test_a_shipped_recipe_is_found_by_its_name_in_any_folder(name, repository):
    """Its bases too: this one of CIFAR-10 has four, one of them in another folder."""
    there = repository / "configs" / f"{name.removesuffix('.yaml')}.yaml"
    assert read_recipe(Path(name), ()) == load(there)


def test_a_file_of_that_path_comes_before_a_shipped_recipe():
    Path("digits_lt").mkdir()
    Path("digits_lt/bbn.yaml").write_text(OWN)
    assert read_recipe(Path("digits_lt/bbn.yaml"), ()).name == "own"
    assert read_recipe(Path("digits_lt/bbn"), ()).name == "digits_lt_bbn"
    Path("digits_lt/bbn").write_text(OWN)
    assert read_recipe(Path("digits_lt/bbn"), ()).name == "own"


def test_a_folder_is_in_the_way_of_a_file_name_alone():
    Path("folder").mkdir()
    assert read_recipe(Path("folder"), ()).name == "folder"
    Path("folder.yaml").mkdir()
    assert locate(Path("folder.yaml")) == Path("folder.yaml")
    Path("other").mkdir()
    with pytest.raises(RecipeError, match="cannot read the config other: it is a folder"):
        read_recipe(Path("other"), ())


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "cifar100_lt",
        "cifar100_lt/nope.yaml",
        "bbn",
        "digits_lt/bbn.yml",
        "../configs/folder",
        "folder/x",
    ],
)
def test_an_unknown_name_is_one_line_with_where_dive_looked_and_what_lists_the_names(name):
    outcome = chain.dive("teacher", "--config", name)
    assert outcome.code == 2 and chain.files_under() == {}
    where = next(iter(recipes().values())).parents[1]
    assert outcome.complaint == (
        f"dive: there is no config {name}: no file of that path, and no recipe of that name in {where}; "
        "dive recipes lists the names"
    )


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "link.yaml", "pipe.yaml"])
def test_a_path_that_cannot_be_read_is_told_as_such(name):
    Path("link.yaml").symlink_to("link.yaml")
    os.mkfifo("pipe.yaml")
    with pytest.raises(RecipeError, match="cannot read the config"):
        read_recipe(Path(name), ())


def test_the_list_names_every_recipe_with_its_file_and_its_first_line(repository):
    listed = chain.succeed("recipes", "--json").document["recipes"]
    assert {one["name"] for one in listed} == names_in(repository / "configs")
    for one in listed:
        assert Path(one["path"]).samefile(repository / "configs" / f"{one['name']}.yaml")
        assert Path(one["path"]).read_text().startswith(f"# {one['summary']}\n")
        assert 20 < len(one["summary"]) <= 82  # on one line at 120 columns
        assert locate(Path(one["name"])) == Path(one["path"])
    names = [one["name"] for one in listed]
    assert [name for name in names if name.startswith("cifar100_lt/bbn_if")] == [
        f"cifar100_lt/bbn_if{imbalance}" for imbalance in (10, 50, 200)
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_its_terminal_and_cuts_no_name_and_no_summary(columns, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", chain.succeed("recipes").out).splitlines()
    table, last = shown[:-1], shown[-1]
    assert last == f"The files are in {next(iter(recipes().values())).parents[1]}."
    assert max(map(len, table)) <= columns and "…" not in "".join(table)
    start = next(line for line in table if "what it is" in line).index("what it is")
    told: dict[str, str] = {}
    for line in table[4:]:
        if name := line[:start].strip():
            told[name] = ""
        if text := line[start:].strip():
            told[list(told)[-1]] += f" {text}"
    listed = chain.succeed("recipes", "--json").document["recipes"]
    summaries = {one["name"]: one["summary"] for one in listed}
    assert {name: text.strip() for name, text in told.items()} == summaries
    if columns == 120:
        assert sum(bool(line[start:].strip()) for line in table[4:]) == len(summaries)


def test_without_a_terminal_every_recipe_is_one_line():
    rows = [line.split() for line in chain.succeed("recipes").out.splitlines()]
    assert {row[0] for row in rows if row} >= recipes().keys()


def test_listing_imports_nothing_slow():
    code = (
        "import sys\nfrom dive.cli.group import run\nrun(['recipes'])\n"
        "print(sorted({'torch', 'numpy', 'h5py', 'matplotlib', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "[]\n"
