"""`dive recipes`."""

from itertools import groupby

import click

from dive.cli import options


@click.command("recipes")
@options.apply(options.as_json)
def command(as_json: bool) -> None:
    """List the recipes shipped with dive.

    Each recipe is an experiment that --config accepts by name, with or without .yaml. A file of that path,
    relative to the working directory, takes precedence.

    \b
    Example:
      dive recipes --json
    """
    from dive.recipe import shipped

    listed = [
        {"name": name, "path": str(path), "summary": shipped.summary(path)}
        for name, path in shipped.recipes().items()
    ]
    if as_json:
        options.print_json({"recipes": listed})
        return
    _print_table(listed)
    click.echo(f"The files are in {shipped.FOLDER}.")


def _print_table(listed: list[dict[str, str]]) -> None:
    from dive.cli.tables import cell, new_table, print_table

    table = new_table("Recipes, for --config NAME", [], [])
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for _, group in groupby(listed, lambda one: one["name"].rpartition("/")[0]):
        for one in group:
            table.add_row(cell(one["name"]), cell(one["summary"]))
        table.add_section()
    print_table(table)
