"""The house: each package imports only those below it, no circle, and no module that has grown too large."""

import ast
import re
from pathlib import Path

import pytest

# From the ground up; a package may import those of floors below its own. `dive` stands for the modules
# directly in it, `public` for its `__init__`, which names what is public.
FLOORS = (
    {"dive"},
    {"recipe"},
    {"models", "data"},
    {"views"},
    {"cache"},
    {"feeds", "method"},
    {"training", "report"},
    {"workflows"},
    {"cli"},
    {"public"},
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
LONGEST = 300  # lines of a module


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name below `dive`, packages by their own."""
    found = {}
    for path in sorted((root / "dive").rglob("*.py")):
        parts = path.relative_to(root / "dive").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of dive that a module names in its imports, those for types alone and late ones too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name}: import by full names"
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("dive.") for alias in node.names), name
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "dive":
            continue
        base = node.module.removeprefix("dive").lstrip(".")
        for alias in node.names:
            inner = f"{base}.{alias.name}".lstrip(".")
            found.add(inner if inner in known else base)
    return found - {name}


@pytest.fixture(scope="module")
def graph(repository) -> dict[str, set[str]]:
    """Module to the modules it imports."""
    known = modules(repository)
    return {name: imports(name, path, known) for name, path in known.items()}


def package(name: str) -> str:
    """The package of a module."""
    if not name:
        return "public"
    return name.partition(".")[0] if name.partition(".")[0] in FLOOR_OF else "dive"


def test_every_package_has_a_floor(repository):
    packages = {path.parent.name for path in (repository / "dive").glob("*/__init__.py")}
    assert packages == set(FLOOR_OF) - {"dive", "public"}


def test_imports_go_down(graph):
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if package(name) != package(other) and FLOOR_OF[package(other)] >= FLOOR_OF[package(name)]
    ]
    assert [line for line in wrong if line != "__main__ imports cli"] == []


def test_there_is_no_circle(graph):
    """Modules that import nothing still standing are taken away until none is left."""
    left = {name: set(others) for name, others in graph.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_a_circle_and_an_import_upwards_would_be_found(graph):
    with pytest.raises(AssertionError):
        test_there_is_no_circle(graph | {"views.space": {"views.registry"}})
    with pytest.raises(AssertionError, match="views.space imports cache.reader"):
        test_imports_go_down(graph | {"views.space": {"cache.reader"}})


def test_no_module_is_longer_than_a_reader_can_hold(repository):
    long = {
        name: count
        for name, path in modules(repository).items()
        if (count := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long


def test_every_file_that_a_document_names_is_there(repository):
    missing = []
    for document in sorted(repository.glob("*.md")):
        for name in re.findall(r"`((?:tests|dive|docs|configs|benchmarks)/[\w./*-]+)`", document.read_text()):
            if not list(repository.glob(name)):
                missing.append(f"{document.name}: {name}")
    assert missing == []


def test_every_module_is_listed_with_its_package(repository):
    """And none that is not there: a line of the list begins with its modules."""
    text = (repository / "ARCHITECTURE.md").read_text()
    listed = re.search(r"^## Modules\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    sections = re.split(r"^### `dive/([a-z]*)/?`\n", listed, flags=re.MULTILINE)
    told = {
        package: set(re.findall(r"`(\w+)/?`", words))
        for package, words in zip(sections[1::2], sections[2::2], strict=True)
    }
    there: dict[str, set[str]] = {}
    for path in (repository / "dive").rglob("*.py"):
        package, *inner = path.relative_to(repository / "dive").with_suffix("").parts
        package, inner = (package, inner) if inner else ("", [package])
        there.setdefault(package, set()).update(part for part in inner if part != "__init__")
    lacking = {f"{package}/{name}" for package, names in there.items() for name in names - told[package]}
    assert there.keys() == told.keys() and lacking == set()
    begin = {
        f"{package}/{name}"
        for package, words in zip(sections[1::2], sections[2::2], strict=True)
        for line in re.findall(r"^ *- ([^:]+):", words, re.MULTILINE)
        for name in re.findall(r"`(\w+)/?`", line)
    }
    folders = {f"{path.parent.name}/{path.name}" for path in (repository / "dive").glob("*/*/")}
    modules_there = {f"{package}/{name}" for package, names in there.items() for name in names}
    assert begin - modules_there - folders <= {"/__init__", "cli/__init__", "report/assets"}
