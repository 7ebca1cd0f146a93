"""`dive doctor`."""

import click

from dive.cli import options


@click.command("doctor")
@click.option("--quick", is_flag=True, help="Skip the trial of precisions, which takes some seconds.")
@options.apply(options.as_json)
def command(quick: bool, as_json: bool) -> None:
    """Show versions, devices and memory, for bug reports.

    \b
    The table lists:
      - the versions and the installed extras
      - CUDA devices, the processor and its threads, and memory
      - the disks of cache/ and checkpoints/
      - which precision --precision auto takes for the paper's network, and why

    What does not work is shown as broken, with the reason.

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
