"""Completion by Tab: what is offered, and that the scripts work in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dive.cli.group import COMMANDS
from dive.recipe.shipped import recipes


@pytest.fixture
def shell_environment(repository, tmp_path) -> dict[str, str]:
    """An environment in which `dive` is on the path."""
    program = tmp_path / "bin" / "dive"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dive "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(repository), "LC_ALL": "C.UTF-8"}


def offered(environment: dict[str, str], *words: str) -> list[tuple[str, str]]:
    """What click answers to bash where Tab is pressed in the last word: pairs of type and value."""
    typed = " ".join(("dive", *words))
    asked = {"_DIVE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words))}
    done = subprocess.run(["dive"], env=environment | asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done
    return [tuple(line.split(",", 1)) for line in done.stdout.splitlines()]


def names(found: list[tuple[str, str]]) -> list[str]:
    return [value for kind, value in found if kind == "plain"]


def test_commands_options_and_choices_are_offered(shell_environment):
    assert names(offered(shell_environment, "")) == list(COMMANDS)
    assert names(offered(shell_environment, "export-")) == ["export-logits", "export-model"]
    assert "--tensorboard" in names(offered(shell_environment, "teacher", "--t"))
    assert names(offered(shell_environment, "teacher", "--loss", "")) == ["bsce", "ce"]
    assert names(offered(shell_environment, "export-model", "a.pt", "--format", "o")) == ["onnx"]


def test_recipes_and_files_are_offered_after_config(shell_environment):
    found = offered(shell_environment, "teacher", "--config", "digits")
    assert ("file", "digits") in found
    assert names(found) == [name for name in recipes() if name.startswith("digits")] != []


@pytest.mark.parametrize("words", [("eval", "ch"), ("inspect", "ch"), ("export-model", "ch")])
def test_files_are_offered_where_a_checkpoint_is_to_be_named(words, shell_environment):
    assert offered(shell_environment, *words) == [("file", "ch")]


@pytest.mark.parametrize("typed", [(), ("a.pt",), ("a.pt", "b.pt")])
def test_an_option_of_several_values_offers_another(typed, shell_environment):
    assert ("file", "ch") in offered(shell_environment, "export-logits", "--teacher", *typed, "ch")
    options = names(offered(shell_environment, "export-logits", "--teacher", "a.pt", "--st"))
    assert options == ["--store"]
    assert names(offered(shell_environment, "export-logits", "--teacher", "a.pt", "--store", "i")) == ["int8"]


SHELLS = {
    "bash": """
        eval "$(_DIVE_COMPLETE=bash_source dive)"
        complete -p dive
        COMP_WORDS=(dive teacher --config digits); COMP_CWORD=3
        compopt() { :; }  # it works only while bash itself completes
        _dive_completion dive digits --config
        printf '%s\\n' "${COMPREPLY[@]}"
        COMP_WORDS=(dive ev); COMP_CWORD=1
        _dive_completion dive ev dive
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -Uz compinit && compinit -u
        eval "$(_DIVE_COMPLETE=zsh_source dive)"
        print -r -- "complete ${_comps[dive]} dive"
        compadd() { local name=${@[-1]}; print -rl -- ${(P)name} }  # … -a completions
        _describe() { local name=$3; print -rl -- ${(P)name} }  # -V unsorted completions -U
        _path_files() { : }
        words=(dive teacher --config digits); CURRENT=4
        _dive_completion
        words=(dive ev); CURRENT=2
        _dive_completion
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_recipes_and_commands(shell, shell_environment):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    words = [shell, "-f" if shell == "zsh" else "--norc", "-c", SHELLS[shell]]
    done = subprocess.run(words, env=shell_environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    lines = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert "_dive_completion" in lines[0] and lines[0].startswith("complete ") and lines[0].endswith(" dive")
    assert set(lines[1:]) >= {"eval", *(name for name in recipes() if name.startswith("digits"))}


def test_the_scripts_that_the_documents_name_are_those_of_the_shells(shell_environment, repository):
    page = (repository / "docs" / "cli.md").read_text()
    for shell, function in (("bash", "complete -o nosort -F"), ("zsh", "compdef")):
        line = f'eval "$(_DIVE_COMPLETE={shell}_source dive)"'
        assert line in page
        asked = {"_DIVE_COMPLETE": f"{shell}_source"}
        done = subprocess.run(["dive"], env=shell_environment | asked, capture_output=True, text=True)
        assert done.returncode == 0 and function in done.stdout
    assert '"$(_DIVE_COMPLETE=bash_source dive)"' in (repository / "README.md").read_text()
    assert Path("bin/dive").exists()
