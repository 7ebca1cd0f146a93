"""Writes docs/cli.md, the reference of the command line, from the commands themselves: `make docs`.

A test compares the page with what would be written. The text is put together here from what each option
states, not taken from its help as click lays it out, which depends on the terminal and on click's version.
"""

import inspect
import re
from pathlib import Path

import click

from dive.cli.group import COMMANDS, group

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
# The command line

    dive COMMAND [OPTIONS]

`make docs` writes this page from the commands. `dive COMMAND --help` shows the same text, and
`dive --version` shows the version.

- **Options.** An option shown with `...` takes several values: `--tau 1 3 6`. An option without a default is
  off, or leaves the recipe's value unchanged. `--set` changes any key of a recipe; [recipe.md](recipe.md)
  lists the keys. Every command also has `-h` and `--help`.
- **Output.** Results go to stdout, progress and warnings to stderr. An error is one line on stderr.
- **Exit codes.** 0: success. 2: a mistake in the command line or the recipe. 1: any other error. 130: after
  Ctrl-C.

## Shell completion

Tab completes commands, options, choices, the names of recipes after `--config`, and files. For bash 4.4 or
later, add this line to `~/.bashrc`:

    eval "$(_DIVE_COMPLETE=bash_source dive)"

For zsh, add this line to `~/.zshrc`, after `compinit`:

    eval "$(_DIVE_COMPLETE=zsh_source dive)"

## Commands
"""
AS_IT_IS = "\b"  # what begins a paragraph that click does not wrap: an example, or a list
# Option help that ends in `[value]`, perhaps with more behind the bracket: what is used without the option.
DEFAULT = re.compile(r"(?P<before>.*?) \[(?P<default>[^\]]+)\](?P<after>.*)")


def page() -> str:
    """The text of docs/cli.md."""
    contents = [f"- [`dive {name}`](#dive-{name}): {sentence}" for name, sentence in COMMANDS.items()]
    commands = (command for name in COMMANDS for command in _command(name))
    return "\n".join([INTRODUCTION, *contents, *commands]) + "\n"


def _command(name: str) -> list[str]:
    """A command's lines: how it is written, what it does, its arguments and its options."""
    command = group.get_command(click.Context(group), name)
    assert command is not None and command.help
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option)]
    usage = " ".join(["dive", name, "[OPTIONS]", *map(_metavar, arguments)])
    lines = ["", f"## dive {name}", "", f"    {usage}"]
    for paragraph in inspect.cleandoc(command.help).split("\n\n"):
        if paragraph.startswith(AS_IT_IS):
            heading, *words = map(str.strip, paragraph.removeprefix(AS_IT_IS).strip().splitlines())
            is_list = words[0].startswith("- ")
            shown = _items(words) if is_list else [f"    {line}" for line in words]
            lines += ["", _escaped(heading), "", *shown]
        else:
            lines += ["", _escaped(" ".join(paragraph.split()))]
    return [*lines, "", *map(_option, options)]


def _items(lines: list[str]) -> list[str]:
    """A list whose items begin with a dash, one item a line."""
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line.removeprefix("- "))
        else:
            items[-1] += f" {line}"
    return [f"- {_escaped(item)}" for item in items]


def _option(option: click.Option) -> str:
    """An option as an item of a list: its name and value, what it does, and its default."""
    assert option.help
    told = DEFAULT.fullmatch(option.help)
    text = told["before"] + told["after"] if told else option.help
    default = told["default"] if told else str(option.default) if option.show_default else ""
    name = ", ".join(option.opts) + (f" {_metavar(option)}" if not option.is_flag else "")
    if default and not re.search("[a-z].* ", default):  # words are no code
        default = f"`{default}`"
    more = " Always required." if option.required else f" Default: {default}." if default else ""
    return f"- `{name}`: {_escaped(text.rstrip('.'))}." + more


def _metavar(parameter: click.Parameter) -> str:
    """What stands for a parameter's value."""
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter, click.Argument):
        return (parameter.name or "").upper()
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    return "FILE" if isinstance(parameter.type, click.Path) else parameter.type.name.upper()


def _escaped(text: str) -> str:
    """Plain text as Markdown shows it; options and commands in it as code."""
    text = re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)
    return re.sub(rf"(?<![\w-])(--[a-z][a-z-]*|dive (?:{'|'.join(COMMANDS)}))\b", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
