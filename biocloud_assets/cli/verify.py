"""`biocloud verify`: compare deliveries with what the lake holds of them."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from biocloud_assets.cli.context import open_context, source_of
from biocloud_assets.cli.output import FAILED, out
from biocloud_assets.errors import DeliveryNameError
from biocloud_assets.ingest import delivery_log
from biocloud_assets.settings import Settings


def verify(deliveries: list[str]) -> None:
    """Print a comparison of each delivery with the lake; exit code 1 if one differs.

    Args:
        deliveries: their names.

    Raises:
        DeliveryNameError: one isn't the name of an ingested delivery.
    """
    settings = Settings.load()
    contexts = {name: open_context(settings, source_of(settings, name)) for name in deliveries}
    for name, context in contexts.items():
        if delivery_log.read(context.tables, context.contract, name) is None:
            raise DeliveryNameError(
                f"delivery {name}",
                expected="an ingested delivery",
                found="none of that name in the delivery log",
                hint=f"`biocloud ingest {name}` ingests it.",
            )
    from biocloud_assets.ingest.verify import verify as compare

    equal = True
    for name, context in contexts.items():
        table = Table("Folder", "Records", "Missing", "Added", "Differing", "", box=None, pad_edge=False, title=name)
        for column in table.columns[1:5]:
            column.justify = "right"
        for comparison in compare(context, name):
            equal = equal and comparison.equal
            table.add_row(
                comparison.folder,
                f"{comparison.records:,}",
                f"{comparison.missing:,}",
                f"{comparison.added:,}",
                f"{comparison.differing:,}",
                "[green]equal[/]" if comparison.equal else "[red]not equal[/]",
            )
            for example in comparison.examples:
                table.add_row("", "", "", "", "", escape(example))
        out.print(table)
    if not equal:
        raise typer.Exit(FAILED)
