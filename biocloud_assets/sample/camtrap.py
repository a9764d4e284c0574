"""The script that created the bundled deliveries from the example dataset of Camtrap DP (tdwg/camtrap-dp).

    python -m biocloud_assets.sample.camtrap SOURCE_FOLDER [TARGET_FOLDER]

Camtrap DP 1.0 maps to the delivery contract as follows:

- A distinct `cameraID` and `cameraModel` is a sensor, a line of deployments.csv a deployment, a line of media.csv a
  media item, a distinct `classificationMethod` and `classifiedBy` an algorithm (people classify too).
- All observations of one event by one classifier are a result. Its media are those of the event, because an event is
  what Camtrap DP has classified as one; the analysis group is the event.
- A media-level observation is a region group with one region, which has a box where the source has one.
- Every observation is a prediction: a media-level one for its region group, an event-level one for the result as a
  whole, with a null `region_group_id`. So a result with event-level observations only has no region groups (an empty
  list). To count observations of media, leave out the predictions without a region group.
- A prediction has one taxon where the observation has a scientific name, and none where it is blank, unclassified,
  unknown or a vehicle. The name's identifier is that of the package's taxonomic coverage.
- `generated_by.datetime` and `created_at` of a result are the latest `classificationTimestamp` of its observations, and
  null where the source has none. A field without a source is null.
- Identifiers are the source's own. It has none for algorithms and results: theirs are built from method, classifier
  and event. All times are in UTC.

The contract has no field for count, life stage, sex, behaviour, tags, comments, observation type and camera setup;
these are left out.

The dates in the source decide which delivery a row is in, as if DSI delivered what was new since the last time: a
deployment with its sensor and media in the first delivery after its end, a result in the first one after its
classification, and one without a date in the first after the package was created; an algorithm comes with the first
result that needs it. So later results refer to earlier deployments, media and algorithms, and the files of the last
delivery for sensors, deployments and media have no rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from biocloud_assets import sample
from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.schema import arrow_schema

Row = dict[str, Any]
"""A row of a folder, as the contract has it, or a line of a source file: texts by column."""


def convert(source: Path) -> dict[str, dict[str, list[Row]]]:
    """The rows of the bundled deliveries, by delivery and folder.

    Args:
        source: the folder of a Camtrap DP 1.0 dataset: datapackage.json, deployments.csv, media.csv, observations.csv.
    """
    package = json.loads((source / "datapackage.json").read_text(encoding="utf-8"))
    observations = _lines(source / "observations.csv")
    media = _lines(source / "media.csv")
    taxon_ids = {taxon["scientificName"]: taxon.get("taxonID") for taxon in package["taxonomic"]}
    made = _utc(package["created"])
    assert made

    deliveries: dict[str, dict[str, list[Row]]] = {
        name: {folder.name: [] for folder in CONTRACT.folders} for name in sample.BUNDLED
    }
    delivered: dict[str, str] = {}  # a deployment's delivery
    sensors: set[str] = set()
    algorithms: set[str] = set()

    for line in sorted(_lines(source / "deployments.csv"), key=lambda line: _utc(line["deploymentEnd"]) or made):
        delivery = delivered[line["deploymentID"]] = _delivery_after(_utc(line["deploymentEnd"]) or made)
        if line["cameraID"] not in sensors:
            sensors.add(line["cameraID"])
            deliveries[delivery]["sensor"].append(_sensor(line))
        deliveries[delivery]["sensor_deployment"].append(_deployment(line, package["project"]))
    for line in media:
        deliveries[delivered[line["deploymentID"]]]["sensor_media_item"].append(_media_item(line))

    media_ids_of_event: dict[str, set[str]] = {}
    lines_of_result: dict[tuple[str, str, str], list[Row]] = {}
    for line in observations:
        if line["mediaID"]:
            media_ids_of_event.setdefault(line["eventID"], set()).add(line["mediaID"])
        key = (line["eventID"], line["classificationMethod"], line["classifiedBy"])
        lines_of_result.setdefault(key, []).append(line)
    for (event, _, _), lines in lines_of_result.items():
        result = _result(
            lines, [item for item in media if item["mediaID"] in media_ids_of_event.get(event, ())], taxon_ids
        )
        delivery = _delivery_after(result["created_at"] or made)
        deliveries[delivery]["analysis_group_result"].append(result)
    # In the order of the deliveries: an algorithm comes with the first result that needs it.
    line_of_algorithm = {_algorithm_id(line): line for line in observations}
    for folders in deliveries.values():
        for result in folders["analysis_group_result"]:
            if result["algorithm_id"] not in algorithms:
                algorithms.add(result["algorithm_id"])
                folders["algorithm"].append(_algorithm(line_of_algorithm[result["algorithm_id"]]))
    return deliveries


def write(deliveries: dict[str, dict[str, list[Row]]], target: Path) -> None:
    """Write deliveries below a folder, one Parquet file a folder, in folders without colons.

    Args:
        deliveries: rows by delivery and folder.
        target: the folder.
    """
    for delivery, folders in deliveries.items():
        for folder in CONTRACT.folders:
            table = pa.Table.from_pylist(folders[folder.name], schema=arrow_schema(folder))
            path = target / sample.folder_name(delivery) / folder.name / "part-0.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.parquet(table))


def _lines(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _utc(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _number(text: str) -> float | None:
    return float(text) if text else None


def _slug(*texts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(texts).lower()).strip("-")


def _delivery_after(moment: datetime) -> str:
    """The first delivery after a moment."""
    return next(
        name for name in sample.BUNDLED if datetime.strptime(name, "%Y-%m-%d-%H:%M:%S").replace(tzinfo=UTC) > moment
    )


def _sensor(line: Row) -> Row:
    return {"id": line["cameraID"], "type": "camera", "model": line["cameraModel"] or None}


def _deployment(line: Row, project: Row) -> Row:
    return {
        "id": line["deploymentID"],
        "sensor_id": line["cameraID"],
        "name": line["locationName"] or None,
        "location": {
            "latitude": _number(line["latitude"]),
            "longitude": _number(line["longitude"]),
            "coordinate_uncertainty_m": _number(line["coordinateUncertainty"]),
        },
        "project": {"id": project["id"], "name": project["title"]},
        "habitat": line["habitat"] or None,
        "start_at": _utc(line["deploymentStart"]),
        "end_at": _utc(line["deploymentEnd"]),
    }


def _media_item(line: Row) -> Row:
    return {
        "id": line["mediaID"],
        "sensor_deployment_id": line["deploymentID"],
        "captured_at": _utc(line["timestamp"]),
        "media": {
            "type": line["fileMediatype"].partition("/")[0],
            "mime_type": line["fileMediatype"],
            "filename": line["fileName"] or None,
            "uri": line["filePath"],
        },
    }


def _algorithm_id(line: Row) -> str:
    return _slug(line["classificationMethod"], line["classifiedBy"])


def _algorithm(line: Row) -> Row:
    # A model's version stands at the end of its name.
    name, _, version = line["classifiedBy"].partition(" Version ")
    return {
        "id": _algorithm_id(line),
        "name": name,
        "version": version or None,
        "description": f"{line['classificationMethod'].capitalize()} classification",
        "media_type": "image",
    }


def _result(lines: list[Row], media: list[Row], taxon_ids: dict[str, str | None]) -> Row:
    """The result of one event and one classifier.

    Args:
        lines: its observations.
        media: the lines of the event's media.
        taxon_ids: identifiers of scientific names.
    """
    first = lines[0]
    generated = max((moment for line in lines if (moment := _utc(line["classificationTimestamp"]))), default=None)
    # The predictions for the result as a whole after those for its region groups.
    lines = sorted(lines, key=lambda line: line["observationLevel"] == "event")
    return {
        "id": f"{first['eventID']}-{_algorithm_id(first)}",
        "analysis_group_id": first["eventID"],
        "algorithm_id": _algorithm_id(first),
        "sensor_deployment_id": first["deploymentID"],
        "generated_by": {"datetime": generated} if generated else None,
        "media": [
            {"id": item["mediaID"], "sensor_media_item_id": item["mediaID"], "filename": item["fileName"] or None}
            for item in media
        ],
        "region_groups": [
            {
                "id": line["observationID"],
                "individual_id": line["individualID"] or None,
                "regions": [{"media_id": line["mediaID"], "box": _box(line)}],
            }
            for line in lines
            if line["observationLevel"] == "media"
        ],
        "predictions": [
            {
                "region_group_id": line["observationID"] if line["observationLevel"] == "media" else None,
                "taxa": {"type": "multiclass", "items": _taxa(line, taxon_ids)},
            }
            for line in lines
        ],
        "created_at": generated,
    }


def _box(line: Row) -> Row | None:
    if not line["bboxX"]:
        return None
    x, y, width, height = (float(line[name]) for name in ("bboxX", "bboxY", "bboxWidth", "bboxHeight"))
    # The source has five decimals; a sum has no more than that.
    return {"x1": x, "y1": y, "x2": round(x + width, 5), "y2": round(y + height, 5)}


def _taxa(line: Row, taxon_ids: dict[str, str | None]) -> list[Row]:
    name = line["scientificName"]
    if not name:
        return []
    return [
        {
            "scientific_name": name,
            "scientific_name_id": taxon_ids.get(name),
            "probability": _number(line["classificationProbability"]),
        }
    ]


def main() -> None:
    """Make the bundled deliveries: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Make the bundled deliveries from the Camtrap DP example dataset.")
    parser.add_argument("source", type=Path, help="folder of the dataset")
    parser.add_argument("target", type=Path, nargs="?", default=sample.BUNDLED_FOLDER, help="folder to write to")
    arguments = parser.parse_args()
    write(convert(arguments.source), arguments.target)


if __name__ == "__main__":
    main()
