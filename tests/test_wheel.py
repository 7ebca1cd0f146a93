"""The wheel: installed without the source tree it has everything that the commands need, recipes too."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
DIGITS = ("--config", "digits_lt/bbn", "--device", "cpu")
CHAIN = (
    ("teacher", *DIGITS, "--epochs", "1"),
    ("export-logits", *DIGITS),
    ("tune-tau", "--config", "digits_lt/bbn", "--plot", "figure.png"),
    ("student", *DIGITS, "--epochs", "1"),
    ("eval", *DIGITS),
)


def run(*words: object, folder: Path) -> str:
    """The stdout of a program that must end well; it finds Python's modules as any program does."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(repository, tmp_path_factory) -> Path:
    """A copy of what is built: a build leaves files behind and takes up those of one before."""
    copy = tmp_path_factory.mktemp("source")
    for name in PROJECT:
        shutil.copy(repository / name, copy)
    for name in ("dive", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, copy / name, symlinks=True, ignore=ignored)
    return copy


def built(source: Path, out: Path) -> Path:
    """The wheel of a source folder or archive, made in the folder `out`."""
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source, folder=out)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """The wheel of the source tree."""
    return built(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` folder of an environment of its own that has the wheel and sees this one's libraries.

    A line in a .pth file adds a folder alone, not what that folder's own .pth files add: an editable
    install of dive in this environment is not seen.
    """
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False, symlinks=True)
    programs = root / "bin"
    into = ("--python", programs / "python")
    run(*PIP, *into, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=root)
    (site,) = root.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return programs


def test_the_wheel_holds_the_package_its_recipes_and_nothing_else(wheel, repository):
    there = {
        f"dive/{path.relative_to(repository / 'dive')}"
        for path in (repository / "dive").rglob("*")
        if path.suffix in (".py", ".typed", ".css", ".js")
    }
    configs = (repository / "configs").rglob("*.yaml")
    there |= {f"dive/configs/{path.relative_to(repository / 'configs')}" for path in configs}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in there:
            assert archive.read(name) == (repository / name).read_bytes(), name
    assert {name for name in names if ".dist-info/" not in name} == there


def test_the_source_archive_makes_the_same_wheel(wheel, source, tmp_path):
    """`python -m build` makes the wheel from it, and there the link to configs/ is a folder of files."""
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, folder=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(built(archive, tmp_path)) as other:
        sums = [{entry.filename: entry.CRC for entry in file.infolist()} for file in (one, other)]
    assert sums[0] == sums[1]


def test_the_installed_commands_run_the_demo_from_an_empty_folder(installed, tmp_path, repository):
    folder = tmp_path / "empty"
    folder.mkdir()
    told = run(installed / "python", "-c", "import dive; print(dive.__file__)", folder=folder)
    assert Path(told.strip()).is_relative_to(installed.parent)
    for words in CHAIN:
        assert "─" in run(installed / "dive", *words, folder=folder), words
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in made if not name.endswith(".lock")} == {
        "cache/digits_lt_bbn.h5",
        "figure.png",
        *(
            f"checkpoints/digits_lt_bbn/{kind}{suffix}"
            for kind in ("teacher", "student")
            for suffix in (".pt", ".json", ".history.jsonl")
        ),
    }


def test_the_installed_command_lists_every_recipe(installed, tmp_path, repository):
    shown = run(installed / "dive", "recipes", folder=tmp_path)
    assert str(installed.parent) in shown.splitlines()[-1]
    rows = [line.split() for line in shown.splitlines()]
    for path in (repository / "configs").rglob("*.yaml"):
        name = str(path.relative_to(repository / "configs")).removesuffix(".yaml")
        assert sum(row[:1] == [name] for row in rows) == 1
