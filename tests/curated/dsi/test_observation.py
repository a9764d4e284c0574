"""The observations of corrected, repeated and incomplete deliveries, and of edge cases in their values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from biocloud_assets.curated.dsi.observation import SOURCES, TERMS
from biocloud_assets.ingest.context import IngestContext
from biocloud_assets.raw.dsi.contract import CONTRACT
from tests.curated.dsi.curated_lake import Row, published
from tests.ingest.deliveries import record, write
from tests.ingest.lakehouse import context_at, ingest, step

FIRST, SECOND, THIRD = "2026-01-01-06:00:00", "2026-01-02-06:00:00", "2026-01-03-23:59:59"


Deliver = Callable[..., None]


@pytest.fixture
def context(tmp_path: Path) -> IngestContext:
    return context_at(tmp_path)


@pytest.fixture
def deliver(context: IngestContext) -> Deliver:
    def deliver_(name: str, **folders: Any) -> None:
        empty: dict[str, Any] = {folder.name: [] for folder in CONTRACT.folders}
        write(Path(context.landing.root), name, **(empty | folders))
        ingest(context, name)

    return deliver_


def one_of_each(**results: Any) -> dict[str, Any]:
    return {folder.name: [record(folder.name)] for folder in CONTRACT.folders} | {
        "analysis_group_result": [record("analysis_group_result", **results)]
    }


def test_every_column_is_filled_from_its_sources(context: IngestContext, deliver: Deliver, tmp_path: Path) -> None:
    deliver(FIRST, **one_of_each())
    (row,) = published(context, tmp_path, "2026-01-01")
    assert row == {
        "occurrenceID": "result-1/g1",
        "basisOfRecord": "MachineObservation",
        "occurrenceStatus": "present",
        "organismID": "i1",
        "datasetID": "project-1",
        "datasetName": "Dunes",
        "eventID": "group-1",
        "parentEventID": "deployment-1",
        "eventDate": "2026-01-30T12:30:15Z",
        "samplingProtocol": "camera",
        "samplingEffort": "2026-01-30T12:30:15Z",
        "habitat": "dune",
        "locality": "Dune",
        "decimalLatitude": 52.16,
        "decimalLongitude": 4.48,
        "geodeticDatum": "EPSG:4326",
        "coordinateUncertaintyInMeters": 10.0,
        "minimumElevationInMeters": -2.0,
        "maximumElevationInMeters": -2.0,
        "scientificName": "Vulpes vulpes",
        "taxonID": "1",
        "nameAccordingTo": "nsr 2025",
        "identifiedBy": "Model 1.2",
        "identifiedByID": "algorithm-1",
        "dateIdentified": "2026-01-30T12:30:15Z",
        "identificationRemarks": "probability 0.7500; multiclass; algorithm tagged stable; service service 3; "
        'parameters {"crop": true}',
        "associatedMedia": "s3://media/1.jpg",
        "probability": 0.75,
        "runnersUp": [],
        "resultID": "result-1",
        "regionGroupID": "g1",
        "sensorID": "sensor-1",
        "delivery": FIRST,
    }


def test_a_correction_that_is_delivered_later_wins_from_its_day_on(
    context: IngestContext, deliver: Deliver, tmp_path: Path
) -> None:
    deliver(FIRST, **one_of_each())
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    moved = record("sensor_deployment")["location"] | {"latitude": 53.0}
    deliver(
        SECOND,
        sensor_deployment=[record("sensor_deployment", location=moved, updated_at=long_ago)],
        algorithm=[record("algorithm", version="1.3")],
    )
    deliver(THIRD, sensor=[record("sensor", type="audio_recorder")])
    seen = {
        day: [
            (row["decimalLatitude"], row["identifiedBy"], row["samplingProtocol"], row["delivery"])
            for row in published(context, tmp_path, day)
        ]
        for day in ("2026-01-01", "2026-01-02", "2026-01-03")
    }
    assert seen == {
        "2026-01-01": [(52.16, "Model 1.2", "camera", FIRST)],
        "2026-01-02": [(53.0, "Model 1.3", "camera", FIRST)],
        "2026-01-03": [(53.0, "Model 1.3", "audio_recorder", FIRST)],
    }


def test_a_re_analysis_replaces_the_older_result_as_a_whole(
    context: IngestContext, deliver: Deliver, tmp_path: Path
) -> None:
    groups = [{"id": name, "individual_id": None, "regions": [{"media_id": "m1"}]} for name in ("g1", "g2")]
    deliver(FIRST, **one_of_each(region_groups=groups))
    newer = record("analysis_group_result", region_groups=groups[:1], predictions=[])
    deliver(SECOND, analysis_group_result=[newer, record("analysis_group_result", id="result-2")])
    assert [(row["occurrenceID"], row["delivery"]) for row in published(context, tmp_path, "2026-01-01")] == [
        ("result-1/g1", FIRST),
        ("result-1/g2", FIRST),
    ]
    rows = published(context, tmp_path, "2026-01-02")
    assert [(row["occurrenceID"], row["delivery"], row["scientificName"]) for row in rows] == [
        ("result-1/g1", SECOND, None),
        ("result-2/g1", SECOND, "Vulpes vulpes"),
    ]


def test_a_delivery_that_is_not_in_the_log_does_not_count(
    context: IngestContext, deliver: Deliver, tmp_path: Path
) -> None:
    deliver(FIRST, **one_of_each())
    write(Path(context.landing.root), SECOND, sensor=[record("sensor", type="audio_recorder")])
    step(context, *(CONTRACT.address(table) for table in CONTRACT.tables), delivery=SECOND)
    (row,) = published(context, tmp_path, "2026-01-31")
    assert (row["samplingProtocol"], row["delivery"]) == ("camera", FIRST)


def taxa(*items: tuple[str | None, float | None], group: str = "g1") -> Row:
    named = [{"scientific_name": name, "scientific_name_id": None, "probability": p} for name, p in items]
    return {"region_group_id": group, "taxa": {"type": "multilabel", "items": named}}


PREDICTIONS: tuple[tuple[list[Row], tuple[str | None, float | None], list[str] | None], ...] = (
    ([taxa(("A", 0.1), ("B", 0.7), ("C", 0.2))], ("B", 0.7), ["C", "A"]),
    ([taxa(("A", 0.5), ("B", 0.5))], ("A", 0.5), ["B"]),
    ([taxa(("A", 0.5)), taxa(("B", 0.9), ("C", 0.1))], ("B", 0.9), ["A", "C"]),
    ([taxa(("A", None), ("B", 0.0))], ("B", 0.0), ["A"]),
    ([taxa(("A", float("nan")), ("B", 0.3))], ("B", 0.3), ["A"]),
    ([taxa(("B", None), ("A", None))], ("B", None), ["A"]),
    ([taxa((None, 0.9), ("A", 0.1))], ("A", 0.1), []),
    ([taxa((None, 0.9))], (None, None), None),
    ([taxa()], (None, None), None),
    ([], (None, None), None),
    ([taxa(("A", 0.5), group="g2")], (None, None), None),
)


def test_the_best_taxon_is_the_most_probable_and_the_others_follow(
    context: IngestContext, deliver: Deliver, tmp_path: Path
) -> None:
    results = [
        record("analysis_group_result", id=f"{number:02}", predictions=predictions)
        for number, (predictions, _, _) in enumerate(PREDICTIONS)
    ]
    deliver(FIRST, **(one_of_each() | {"analysis_group_result": results}))
    for row, (predictions, best, others) in zip(published(context, tmp_path, "2026-01-01"), PREDICTIONS, strict=True):
        names = None if row["runnersUp"] is None else [taxon["scientificName"] for taxon in row["runnersUp"]]
        assert ((row["scientificName"], row["probability"]), names) == (best, others), predictions
        assert row["occurrenceStatus"] == ("present" if best[0] else None)


def test_every_row_has_its_own_occurrence_id_for_any_identifiers(
    context: IngestContext, deliver: Deliver, tmp_path: Path
) -> None:
    def result(name: str, *groups: str | None) -> Row:
        made = [{"id": group, "individual_id": None, "regions": None} for group in groups]
        return record("analysis_group_result", id=name, region_groups=made, predictions=[])

    results = [
        result("a", "b/c", None, "", "twice", "twice", "%2F", "/1"),
        result("a/b", "c", "1"),
        result("a%2Fb", "c"),
        result("a/", "1"),
        result("none"),
    ]
    deliver(FIRST, **(one_of_each() | {"analysis_group_result": results}))
    rows = published(context, tmp_path, "2026-01-01")
    assert sorted(row["occurrenceID"] for row in rows) == sorted(
        [
            *("a/b%2Fc", "a//1", "a//2", "a//3", "a//4", "a/%252F", "a/%2F1"),
            *("a%2Fb/c", "a%2Fb/1", "a%252Fb/c", "a%2F/1"),
        ]
    )


def test_media_come_from_the_regions_or_else_from_the_result(
    context: IngestContext, deliver: Deliver, tmp_path: Path
) -> None:
    def item(name: str, second: int, **fields: Any) -> Row:
        at = datetime(2026, 1, 1, 12, 0, second, tzinfo=UTC)
        media = record("sensor_media_item")["media"] | {"uri": f"s3://media/{name}"}
        return record("sensor_media_item", id=name, captured_at=at, media=media, **fields)

    media = [{"id": f"m-{name}", "sensor_media_item_id": name, "filename": None} for name in ("c", "b", "a", "lost")]
    groups = [
        {
            "id": "both",
            "individual_id": None,
            "regions": [{"media_id": "m-b"}, {"media_id": "m-a"}, {"media_id": "m-b"}],
        },
        {"id": "one", "individual_id": None, "regions": [{"media_id": "m-c"}]},
        {"id": "none", "individual_id": None, "regions": []},
        {"id": "lost", "individual_id": None, "regions": [{"media_id": "m-lost"}]},
    ]
    result = record(
        "analysis_group_result", media=media, region_groups=groups, predictions=[], sensor_deployment_id=None
    )
    deliver(
        FIRST,
        **(
            one_of_each()
            | {"sensor_media_item": [item("a", 1), item("b", 5), item("c", 9)], "analysis_group_result": [result]}
        ),
    )
    rows = {row["regionGroupID"]: row for row in published(context, tmp_path, "2026-01-01")}
    assert {name: (row["eventDate"], row["associatedMedia"]) for name, row in rows.items()} == {
        "both": ("2026-01-01T12:00:01Z/2026-01-01T12:00:05Z", "s3://media/a | s3://media/b"),
        "one": ("2026-01-01T12:00:09Z", "s3://media/c"),
        "none": ("2026-01-01T12:00:01Z/2026-01-01T12:00:09Z", "s3://media/a | s3://media/b | s3://media/c"),
        "lost": (None, None),
    }
    assert {name: row["parentEventID"] for name, row in rows.items()} == {
        "both": "deployment-1",
        "one": "deployment-1",
        "none": "deployment-1",
        "lost": None,
    }


def test_dangling_references_lose_no_row(context: IngestContext, deliver: Deliver, tmp_path: Path) -> None:
    deliver(
        FIRST,
        analysis_group_result=[record("analysis_group_result", algorithm_id="lost", sensor_deployment_id="lost")],
    )
    (row,) = published(context, tmp_path, "2026-01-01")
    assert (row["identifiedByID"], row["parentEventID"]) == ("lost", "lost")
    assert (row["identifiedBy"], row["decimalLatitude"], row["geodeticDatum"]) == (None, None, None)
    assert row["scientificName"] == "Vulpes vulpes"


def test_terms_name_existing_raw_columns() -> None:
    for term in TERMS:
        for source in term.sources:
            table, _, column = source.partition(".")
            assert column in {item.name for item in CONTRACT.table(table).columns}, source
        assert term.iri is None or term.iri.rpartition("/")[2] == term.name
    assert set(SOURCES) == {table.name for table in CONTRACT.tables}
