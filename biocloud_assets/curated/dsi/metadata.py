"""What a step did, as Dagster shows it.

What belongs here: plain data of the steps into materialisations and observations. What doesn't: running them.
"""

import base64
from collections.abc import Iterator
from datetime import date

import dagster as dg

from biocloud_assets.curated.dsi.cleanup import Cleanup
from biocloud_assets.curated.dsi.manifest import Manifest
from biocloud_assets.curated.dsi.observation import TERMS
from biocloud_assets.curated.dsi.plot import detections_by_day
from biocloud_assets.curated.dsi.publication import Publication
from biocloud_assets.raw.dsi import contract

OBSERVATION = dg.AssetKey(["curated", "dsi", "observation"])
MANIFEST = dg.AssetKey(["curated", "dsi", "manifest"])
DAYS = dg.AssetKey(["curated", "dsi", "days"])

LOG_VERSION = "delivery_log_version"
"""The metadata of a publication with the version of the delivery log that it was made from."""


def columns() -> dg.TableSchema:
    """The columns of the observations."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                term.name,
                contract.type_name(term.type),
                description=f"{term.description}. {term.iri or 'A term of Biocloud.'}",
                constraints=dg.TableColumnConstraints(nullable=term.name not in {"occurrenceID", "basisOfRecord"}),
            )
            for term in TERMS
        ]
    )


def lineage() -> dg.TableColumnLineage:
    """The raw columns that each of the columns is made of."""

    def dep(source: str) -> dg.TableColumnDep:
        table, _, column = source.partition(".")
        return dg.TableColumnDep(dg.AssetKey(["raw", "dsi", table]), column)

    return dg.TableColumnLineage({term.name: [dep(source) for source in term.sources] for term in TERMS})


def materialization(key: dg.AssetKey, run_date: date, made: dict[str, dg.MetadataValue]) -> dg.AssetMaterialization:
    """What an asset's step made on a day."""
    return dg.AssetMaterialization(key, partition=run_date.isoformat(), metadata=made)


def observation(key: dg.AssetKey, run_date: date, seen: dict[str, dg.MetadataValue]) -> dg.AssetObservation:
    """What was seen of an asset without making it."""
    return dg.AssetObservation(key, partition=run_date.isoformat(), metadata=seen)


def of_publication(published: Publication) -> dict[str, dg.MetadataValue]:
    """Counts, where it lies, and a plot of the detections."""
    title = f"Detections by taxon and day, as of {published.run_date}"
    image = base64.b64encode(detections_by_day(published.detections, title)).decode()
    return {
        "detections": dg.MetadataValue.md(f"![{title}](data:image/png;base64,{image})"),
        "dagster/partition_row_count": dg.MetadataValue.int(published.rows),
        "species": dg.MetadataValue.int(published.species),
        "files": dg.MetadataValue.int(published.files),
        "bytes": dg.MetadataValue.int(published.size),
        "files_changed": dg.MetadataValue.int(published.changed),
        "deliveries": dg.MetadataValue.int(len(published.deliveries)),
        "newest_delivery": dg.MetadataValue.text(max(published.deliveries, default="")),
        LOG_VERSION: dg.MetadataValue.int(published.log_version),
        "dagster/uri": dg.MetadataValue.text(published.uri),
        "dagster/column_lineage": dg.MetadataValue.column_lineage(lineage()),
        "dry_run": dg.MetadataValue.bool(published.dry_run),
    }


def of_manifest(manifest: Manifest, *, dry_run: bool) -> dict[str, dg.MetadataValue]:
    """What the manifest says, summed up."""
    return {
        "dagster/uri": dg.MetadataValue.text(manifest.uri),
        "write_date": dg.MetadataValue.text(manifest.write_date.isoformat()),
        "files": dg.MetadataValue.int(manifest.files),
        "bytes": dg.MetadataValue.int(manifest.size),
        "written": dg.MetadataValue.bool(manifest.written),
        "dry_run": dg.MetadataValue.bool(dry_run),
    }


def of_cleanup(cleaned: Cleanup) -> dict[str, dg.MetadataValue]:
    """Each day with what became of its folder."""
    gone = "would go" if cleaned.dry_run else "gone"
    rows: list[tuple[date, str, int | None, int]] = [
        (removal.date, "partly there" if removal.faults else gone, removal.files, len(removal.faults))
        for removal in cleaned.removals
    ]
    rows += [(day, "there", None, 0) for day in cleaned.kept]
    names = {"day": "string", "folder": "string", "files": "int", "faults": "int"}
    return {
        "folders": dg.MetadataValue.table(
            [
                dg.TableRecord({"day": day.isoformat(), "folder": folder, "files": files, "faults": faults})
                for day, folder, files, faults in rows
            ],
            schema=dg.TableSchema([dg.TableColumn(name, type_) for name, type_ in names.items()]),
        ),
        "folders_there": dg.MetadataValue.int(len(cleaned.kept)),
        "folders_gone": dg.MetadataValue.int(0 if cleaned.dry_run else len(cleaned.removals)),
        "oldest_day_that_stays": dg.MetadataValue.text(cleaned.cutoff.isoformat()),
        "faults": dg.MetadataValue.text("\n".join(cleaned.faults)),
        "dry_run": dg.MetadataValue.bool(cleaned.dry_run),
    }


def of_removals(cleaned: Cleanup) -> Iterator[dg.AssetObservation]:
    """An observation of the observations of each day whose folder went, or would go."""
    gone = "would go" if cleaned.dry_run else "gone"
    for removal in cleaned.removals:
        yield dg.AssetObservation(
            OBSERVATION,
            partition=removal.date.isoformat(),
            metadata={
                "folder": dg.MetadataValue.text("partly there" if removal.faults else gone),
                "files": dg.MetadataValue.int(removal.files),
                "bytes": dg.MetadataValue.int(removal.size),
            },
        )
