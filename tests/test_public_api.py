"""The public interface: its names, its documents, and that every example in them runs."""

import doctest
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chain import Chain

import dive

PAGE = Path("docs/python-api.md")
NO_EXAMPLE = {"ConvertOptions", "DiveError", "ExportOptions", "LabelledImages", "LogitCache", "Recipe"}
NO_EXAMPLE |= {
    "ImportOptions",
    "MergeOptions",
    "ModelExportOptions",
    "ReportOptions",
    "StudentOptions",
    "TrainOptions",
    "TuneOptions",
}  # shown with the function that takes or gives them


@pytest.fixture
def digits_folder(digits: Chain, tmp_path: Path) -> Path:
    """A folder with a teacher and a cache of the digits at the places where the commands put them."""
    for source, place in (
        (digits.teacher, "checkpoints/digits_lt_bbn/teacher.pt"),
        (digits.cache, "cache/digits_lt_bbn.h5"),
    ):
        (tmp_path / place).parent.mkdir(parents=True)
        shutil.copyfile(source, tmp_path / place)
    return tmp_path


def run_examples(text: str, name: str) -> None:
    """Run the examples of a text as doctest does."""
    test = doctest.DocTestParser().get_doctest(text, {"Path": Path}, name, None, 0)
    assert test.examples, f"{name} has no example"
    runner, told = doctest.DocTestRunner(verbose=False), []
    runner.run(test, out=told.append)
    assert runner.failures == 0, "".join(told)


@pytest.mark.parametrize("name", sorted(set(dive.__all__) - NO_EXAMPLE))
def test_the_example_of_a_public_name_runs(name: str, digits_folder: Path) -> None:
    run_examples(inspect.getdoc(getattr(dive, name)), name)


def test_the_examples_of_the_page_run(digits_folder: Path, repository: Path) -> None:
    run_examples((repository / PAGE).read_text(), str(PAGE))


@pytest.mark.parametrize("name", dive.__all__)
def test_the_page_names_every_public_name(name: str, repository: Path) -> None:
    assert f"dive.{name}" in (repository / PAGE).read_text()


@pytest.mark.parametrize("name", dive.__all__)
def test_a_public_name_is_documented_and_comes_from_its_home(name: str) -> None:
    value = getattr(dive, name)
    assert value.__name__ == name and value.__module__.startswith("dive.")
    assert inspect.getdoc(value)


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dive.nonsense  # noqa: B018
    assert set(dive.__all__) <= set(dir(dive))


def test_the_names_for_type_checkers_are_the_public_names(repository: Path) -> None:
    text = (repository / "dive" / "__init__.py").read_text()
    declared = {line.split(" as ")[1] for line in text.splitlines() if line.startswith("    from dive.")}
    assert declared == {*dive.__all__, "__version__"}


def test_importing_dive_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import dive, sys; sys.exit(bool({'torch', 'numpy', 'h5py', 'click', 'rich'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_tune_step_of_a_program_imports_no_torch(digits_folder: Path) -> None:
    code = (
        "import dive, sys; cache = dive.open_cache('cache/digits_lt_bbn.h5'); "
        "dive.recommend(cache); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=digits_folder).returncode == 0


def modules_with_examples() -> list[str]:
    """The modules of the house whose text has an example."""
    root = Path(__file__).parents[1]
    files = [file for folder in ("dive", "reproduction") for file in (root / folder).rglob("*.py")]
    found = [file.relative_to(root).with_suffix("") for file in files if ">>> " in file.read_text()]
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in found)


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_within_the_house_run(name: str, digits_folder: Path) -> None:
    """All but those of public names, which run above."""
    module = importlib.import_module(name)
    public = {f"{name}.{one}" for one in dive.__all__}
    examples = [one for one in doctest.DocTestFinder().find(module) if one.examples]
    assert examples
    runner, told = doctest.DocTestRunner(verbose=False), []
    for example in examples:
        if example.name not in public:
            runner.run(example, out=told.append)
    assert runner.failures == 0, "".join(told)
