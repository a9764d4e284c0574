"""`biocloud sample`: write synthetic deliveries."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from biocloud_assets.cli.output import err, out
from biocloud_assets.ingest.delivery import delivery_path
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import synthetic
from biocloud_assets.settings import Settings


def sample(*, results: int, seed: int, deliveries: int) -> None:
    """Write synthetic deliveries into the landing zone.

    Args:
        results: the number of results in each delivery.
        seed: the same seed gives the same bytes.
        deliveries: the number of deliveries.
    """
    settings = Settings.load()
    landing = DataLake.at(settings.landing, endpoint=settings.s3_endpoint)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("Writing results", total=results * deliveries)
        names = synthetic.write(
            landing,
            results=results,
            seed=seed,
            deliveries=deliveries,
            on_progress=lambda count: progress.advance(task, count),
        )
    for name in names:
        out.print(landing.uri(delivery_path(CONTRACT, name)))
    out.print(f"Ingest with [bold]uv run biocloud ingest {' '.join(names[:3])}[/]")
