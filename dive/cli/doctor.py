"""`dive doctor`."""

import click

from dive.cli import options


@click.command("doctor")
@click.option("--quick", is_flag=True, help="Leave out the trial of precisions, which takes some seconds.")
@options.apply(options.as_json)
def command(quick: bool, as_json: bool) -> None:
    """Show what dive finds on this machine, for bug reports.

    Versions, CUDA devices, the processor and its threads, memory, the disks of cache/ and checkpoints/, the
    extras that are installed, and which precision --precision auto takes for the paper's network, and why.
    What is broken is a line that says how.

    \b
    Example:
      dive doctor --quick
    """
    from dive.workflows.doctor import examine

    findings = examine(precision=not quick)
    if as_json:
        options.print_json({one.name: {"value": one.value, "ok": one.ok} for one in findings})
        return
    from dive.cli.tables import cell, new_table, print_table

    table = new_table("dive doctor", ["what", "found"], [])
    table.show_header = False
    for one in findings:
        table.add_row(cell(one.name), cell(one.value if one.ok else f"broken: {one.value}"))
    print_table(table)
