"""The command line: variadic options, help, start-up without torch, and what the README names."""

import itertools
import os
import shlex
import subprocess
import sys

import chain
import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dive.cli.group import COMMANDS, group
from dive.cli.options import VariadicCommand, spread

VARIADIC = ("--tau", "--power")


@click.command("probe", cls=VariadicCommand, variadic=VARIADIC)
@click.option("--tau", "taus", type=float, multiple=True)
@click.option("--power", "powers", type=float, multiple=True)
@click.option("--name", default="")
@click.option("--flag", is_flag=True)
def probe(**values: object) -> None:
    """A command with the options of tune-tau."""
    print(repr(values))


def parsed(*args: str) -> dict[str, object]:
    """What click makes of the arguments."""
    with probe.make_context("probe", list(args)) as context:
        return context.params


@pytest.mark.parametrize(
    ("line", "taus", "powers"),
    [
        ("--tau 1 3 6 --power 0.5 1", (1, 3, 6), (0.5, 1)),
        ("--power 0.5 1 --tau 1 3 6", (1, 3, 6), (0.5, 1)),
        ("--tau 3", (3,), ()),
        ("--tau=3", (3,), ()),
        ("--tau=3 --tau 6 9", (3, 6, 9), ()),
        ("--tau 1 --tau 3", (1, 3), ()),
        ("--tau -1 -2.5 1e-3", (-1, -2.5, 1e-3), ()),
        ("--tau 1 3 --flag --name x --tau 6", (1, 3, 6), ()),
        ("", (), ()),
    ],
)
def test_an_option_takes_one_value_or_more(line, taus, powers):
    params = parsed(*line.split())
    assert (params["taus"], params["powers"]) == (taus, powers)


def test_what_follows_the_values_is_an_option_again():
    params = parsed("--tau", "1", "3", "--flag", "--name", "x")
    assert params["flag"] is True and params["name"] == "x" and params["taus"] == (1, 3)


@pytest.mark.parametrize("line", ["--tau --power 1", "--tau", "--power 1 --tau --flag", "--tau -h"])
def test_an_option_without_a_value_is_an_error_of_its_own(line):
    with pytest.raises(click.UsageError, match="--tau.*needs at least one value"):
        parsed(*line.split())


def test_a_value_that_is_no_number_is_an_error_that_names_it():
    with pytest.raises(click.BadParameter, match="'three' is not a valid float"):
        parsed("--tau", "1", "three")


def test_a_value_too_far_is_no_silent_argument():
    with pytest.raises(click.UsageError):
        parsed("--tau", "1", "--flag", "3")


numbers = st.floats(allow_nan=False).map(repr) | st.integers(-(10**6), 10**6).map(str)
one = {"min_size": 1, "max_size": 1}
uses = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(VARIADIC), st.lists(numbers, min_size=1, max_size=4)),
        st.tuples(st.sampled_from(("--tau=", "--power=")), st.lists(numbers, **one)),
        st.just(("--flag", [])),
        st.tuples(st.just("--name"), st.lists(st.sampled_from(["x", "a b", "--tau-like"]), **one)),
    ),
    max_size=6,
)


@given(uses)
def test_click_gives_back_every_value_in_its_order(given_uses):
    args, expected = [], {"--tau": [], "--power": []}
    for option, values in given_uses:
        if option.endswith("="):
            args.append(option + values[0])
        else:
            args += [option, *values]
        if option.rstrip("=") in expected:
            expected[option.rstrip("=")] += [float(value) for value in values]
    params = parsed(*args)
    assert list(params["taus"]) == expected["--tau"]
    assert list(params["powers"]) == expected["--power"]
    assert params["flag"] == any(option == "--flag" for option, _ in given_uses)


@given(st.lists(st.sampled_from(["a", "-b", "--c", "1", "-1", "--", "--tau=1"])))
def test_arguments_without_a_variadic_option_stay_as_they_are(args):
    assert spread(args, VARIADIC) == args


def test_spreading_leaves_the_given_list_alone():
    args = ["--tau", "1", "3"]
    assert spread(args, VARIADIC) == ["--tau", "1", "--tau", "3"]
    assert args == ["--tau", "1", "3"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_explains_each_option(name):
    outcome = chain.succeed(name, "--help")
    assert outcome.out.startswith(f"Usage: dive {name} ") and outcome.err == ""
    assert chain.succeed(name, "-h").out == outcome.out
    command = group.get_command(click.Context(group), name)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in outcome.out
            assert parameter.help and parameter.help.rstrip().endswith((".", "]")), parameter.name


COMMON = {
    "init": "--train-list --test-list --val-list --classes --check --out --force --json --quiet",
    "recipes": "--json",
    "teacher": "--config --set --data --device --precision --seed --json --quiet --force --loss --epochs "
    "--out --eval-every --workers --check-images --tensorboard",
    "export-logits": "--config --set --data --device --precision --json --quiet --force --teacher --views "
    "--store --out --workers --model --teacher-prior --shard",
    "merge-shards": "--out --config --json --quiet --force",
    "import-logits": "--config --set --data --json --quiet --force --teacher-prior --store --out",
    "convert": "--store --out --json --quiet --force",
    "merge-caches": "--cache --weights --store --out --json --quiet --force",
    "tune-tau": "--config --set --json --quiet --force --cache --tau --power --plot --clean --sample --seed "
    "--rule",
    "student": "--config --set --data --device --precision --seed --json --quiet --force --cache --tau "
    "--power --student-tau --weight --epochs --out --free-views --fixed-view --eval-every --workers "
    "--check-images --tensorboard",
    "eval": "--config --set --data --device --json --quiet --per-class --part --model --workers --plot "
    "--force",
    "report": "--out --sample --seed --config --set --data --json --quiet --force",
    "predict": "--top --csv --device --model --json --quiet",
    "export-model": "--format --out --size --model --json --quiet --force",
    "doctor": "--quick --json",
    "inspect": "--json",
    "verify": "--cache --data --device --seed --json --quiet --sample --teacher --model --against",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_options_of_the_issue(name):
    command = group.get_command(click.Context(group), name)
    found = {option for parameter in command.params for option in parameter.opts}
    assert set(COMMON[name].split()) <= found


def test_the_groups_help_names_every_command_in_the_order_of_use():
    shown = chain.succeed("--help").out.partition("Commands")[2]
    places = [shown.index(f"  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    use = ["init", "recipes", "teacher", "export-logits", "merge-shards", "import-logits", "convert"]
    use += ["merge-caches"]
    use += ["tune-tau", "student", "eval"]
    use += ["report", "predict", "export-model", "inspect", "verify", "doctor"]
    assert list(COMMANDS) == use


def test_dive_alone_shows_its_help():
    outcome = chain.dive()
    assert outcome.code in (0, 2)
    assert "Usage: dive" in outcome.out + outcome.err and "teacher" in outcome.out + outcome.err


def test_the_version_is_the_packages():
    import dive

    assert chain.succeed("--version").out.split()[-1] == dive.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(repository, name):
    assert f"dive {name}" in (repository / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nonsense",), "nonsense"),
        (("teacher", "--nope"), "--nope"),
        (("teacher", "--epochs", "0"), "--epochs"),
        (("teacher", "--epochs", "many"), "many"),
        (("teacher", "--loss", "mse"), "mse"),
        (("teacher", "--seed", "1.5"), "1.5"),
        (("export-logits", "--store", "int4"), "int4"),
        (("teacher", "--precision", "fp64"), "fp64"),
        (("tune-tau", "--tau", "--power", "1"), "--tau"),
        (("tune-tau", "--tau", "1", "--quiet", "3"), "3"),
        (("student", "--tau", "warm"), "warm"),
        (("teacher", "--config"), "--config"),
    ],
)
def test_a_mistyped_command_line_is_one_line_that_names_the_mistake(arguments, named):
    outcome = chain.dive(*arguments)
    assert outcome.code == 2 and named in outcome.complaint
    assert chain.files_under() == {}


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    """A fresh interpreter, as a user starts one."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


ALL_HELP = """
import contextlib, io, sys
from dive.cli import main
from dive.cli.group import COMMANDS
for words in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
    sys.argv = ["dive", *words]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
        with contextlib.suppress(SystemExit):
            main()
print(sorted({"torch", "torchvision", "h5py", "matplotlib", "sklearn", "PIL"} & set(sys.modules)))
"""


def test_no_help_imports_torch_or_anything_else_that_is_slow():
    done = run_python(ALL_HELP)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_takes_less_than_half_a_second_of_a_processor(name):
    words = [*([name] if name else []), "--help"]
    child = subprocess.Popen(
        [sys.executable, "-c", "from dive.cli import main; main()", *words], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    # The processor's time does not depend on what else the machine does.
    assert usage.ru_utime + usage.ru_stime < 0.5


MODULES = """
import sys
from dive.cli import main
try:
    main()
finally:
    heavy = {"torch", "torchvision", "matplotlib", "sklearn", "PIL"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("plot", [False, True])
def test_tuning_imports_no_torch_and_matplotlib_only_for_a_plot(digits, plot):
    options = ["--plot", "figure.png"] if plot else []
    done = run_python(MODULES, "tune-tau", "--cache", digits.cache, "--quiet", *options)
    assert done.returncode == 0, done.stderr
    imported = done.stderr.splitlines()[-1]
    assert "torch" not in imported and "sklearn" not in imported
    assert ("matplotlib" in imported) == plot


def test_the_launcher_in_the_source_tree_is_the_command(repository):
    done = subprocess.run(
        [sys.executable, repository / "cli.py", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == chain.succeed("--version").out


def test_a_reader_that_goes_away_is_no_traceback(digits):
    words = [sys.executable, "-c", "from dive.cli import main; main()", "tune-tau", "--json"]
    taus = ["--tau", *(str(1 + i / 10) for i in range(400))]  # more than a pipe holds
    child = subprocess.Popen(
        [*words, "--cache", str(digits.cache), *taus], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout.read(10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) in (0, 1)


def test_click_itself_finds_nothing_odd_in_the_group():
    result = CliRunner().invoke(group, ["tune-tau", "--help"])
    assert result.exit_code == 0 and "--tau T [T ...]" in result.output


def examples(name: str) -> list[str]:
    """The command lines of a command's example, as its help shows them."""
    lines = chain.succeed(name, "--help").out.splitlines()
    heading = next(place for place, line in enumerate(lines) if line.strip() == "Example:")
    return list(itertools.takewhile(str.strip, lines[heading + 1 :]))


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = examples(name)
    assert lines, "its docstring ends in a paragraph that begins with \\b and Example:"
    for line in lines:
        assert line.startswith(f"    dive {name} ") and len(line) < 96
        program, _, *words = shlex.split(line)
        command = group.get_command(click.Context(group), name)
        with command.make_context(name, words, parent=click.Context(group, info_name=program)) as context:
            assert context.params


@pytest.mark.parametrize("name", COMMANDS)
def test_the_images_of_an_example_are_a_folder_or_an_archive_that_is_read(name):
    words = [word for line in examples(name) for word in shlex.split(line)]
    for option, value in itertools.pairwise(words):
        assert option != "--data" or os.path.splitext(value)[1] in ("", ".zip"), value


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does_in_a_sentence(name):
    command = group.get_command(click.Context(group), name)
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert len({one.name for one in options}) == len(options)
    for option in options:
        assert option.help and len(option.help.split()) >= 3 and option.help.endswith("."), option.opts
