"""The outcomes of the curated steps as metadata: publication, manifest and cleanup."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import date

from biocloud_assets import steps
from biocloud_assets.curated.dsi.cleanup import Cleanup
from biocloud_assets.curated.dsi.manifest import Manifest
from biocloud_assets.curated.dsi.observation import TERMS
from biocloud_assets.curated.dsi.plot import detections_by_day
from biocloud_assets.curated.dsi.publication import Publication
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.steps import Observation, Value

OBSERVATION = "curated/dsi/observation"
MANIFEST = "curated/dsi/manifest"
RETENTION = "curated/dsi/retention"
"""The addresses of the assets."""

LOG_VERSION = "delivery_log_version"
"""The metadata entry of a publication with the version of the delivery log that it was made from."""


def lineage() -> Value:
    """The raw columns that each of the columns is made of."""

    def dep(source: str) -> tuple[str, str]:
        table, _, column = source.partition(".")
        return CONTRACT.address(CONTRACT.table(table)), column

    return steps.column_lineage({term.name: [dep(source) for source in term.sources] for term in TERMS})


def of_publication(published: Publication) -> dict[str, Value]:
    """Counts, the address, and a plot of the detections."""
    title = f"Detections by taxon and day, as of {published.run_date}"
    image = base64.b64encode(detections_by_day(published.detections, title)).decode()
    return {
        "detections": steps.markdown(f"![{title}](data:image/png;base64,{image})"),
        "dagster/partition_row_count": steps.integer(published.rows),
        "species": steps.integer(published.species),
        "files": steps.integer(published.files),
        "bytes": steps.integer(published.size),
        "files_changed": steps.integer(published.changed),
        "deliveries": steps.integer(len(published.deliveries)),
        "newest_delivery": steps.text(max(published.deliveries, default="")),
        LOG_VERSION: steps.integer(published.log_version),
        "dagster/uri": steps.text(published.uri),
        "dagster/column_lineage": lineage(),
        "dry_run": steps.boolean(published.dry_run),
    }


def of_manifest(manifest: Manifest, *, dry_run: bool) -> dict[str, Value]:
    """The totals of the manifest."""
    return {
        "dagster/uri": steps.text(manifest.uri),
        "write_date": steps.text(manifest.write_date.isoformat()),
        "files": steps.integer(manifest.files),
        "bytes": steps.integer(manifest.size),
        "written": steps.boolean(manifest.written),
        "dry_run": steps.boolean(dry_run),
    }


def of_cleanup(cleaned: Cleanup) -> dict[str, Value]:
    """Each day with the state of its folder."""
    deleted = "would be deleted" if cleaned.dry_run else "deleted"
    rows: list[tuple[date, str, int | None, int]] = [
        (removal.date, "partly deleted" if removal.failures else deleted, removal.files, len(removal.failures))
        for removal in cleaned.removals
    ]
    rows += [(day, "kept", None, 0) for day in cleaned.kept]
    return {
        "folders": steps.table(
            [("day", "string"), ("folder", "string"), ("files", "int"), ("failures", "int")],
            [
                {"day": day.isoformat(), "folder": folder, "files": files, "failures": failures}
                for day, folder, files, failures in rows
            ],
        ),
        "folders_kept": steps.integer(len(cleaned.kept)),
        "folders_deleted": steps.integer(0 if cleaned.dry_run else len(cleaned.removals)),
        "oldest_day_kept": steps.text(cleaned.cutoff.isoformat()),
        "failures": steps.text("\n".join(cleaned.failures)),
        "dry_run": steps.boolean(cleaned.dry_run),
    }


def of_removals(cleaned: Cleanup) -> Iterator[Observation]:
    """An observation about the published data of each day whose folder was deleted, or would be."""
    deleted = "would be deleted" if cleaned.dry_run else "deleted"
    for removal in cleaned.removals:
        yield Observation(
            OBSERVATION,
            removal.date.isoformat(),
            {
                "folder": steps.text("partly deleted" if removal.failures else deleted),
                "files": steps.integer(removal.files),
                "bytes": steps.integer(removal.size),
            },
        )
