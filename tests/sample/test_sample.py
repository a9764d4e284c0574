"""The bundled deliveries hold the data of their source; the synthetic ones are valid and have all edge cases."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biocloud_assets import sample
from biocloud_assets.errors import BiocloudError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.sample import camtrap, synthetic
from biocloud_assets.schema import Presence, Struct, arrow_schema, walk

Folders = dict[str, list[dict[str, Any]]]

BOX = dict(walk(CONTRACT.folder(RESULT).fields))["region_groups[].regions[].box"].type
assert isinstance(BOX, Struct)

# Facts of the Camtrap DP example dataset, version 1.0.2, counted in its CSV files.
MEDIA = 423
OBSERVATIONS = 549
MEDIA_OBSERVATIONS = 513
BOXES = 20
PROBABILITIES = 22
RESULTS = {
    "human-danny-van-der-beeck": 16,
    "machine-western-europe-species-model-version-1": 2,
    "human-axel-neukermans": 1,
    "human-peter-desmet": 32,
}
SPECIES = {
    "Anas platyrhynchos": 222,
    "Anas strepera": 18,
    "Ardea": 22,
    "Ardea cinerea": 31,
    "Aves": 13,
    "Homo sapiens": 33,
    "Martes foina": 11,
    "Mustela putorius": 12,
    "Rattus norvegicus": 30,
    "Vulpes vulpes": 7,
}


def read(landing: DataLake, delivery: str) -> Folders:
    """All rows of a delivery, by folder; every file must have the contract's schema."""
    folders: Folders = {folder.name: [] for folder in CONTRACT.folders}
    seen = set()
    for file in landing.walk(f"dsi/{delivery}"):
        _, _, folder, _ = file.path.split("/")
        table = pq.read_table(BytesIO(landing.read(file.path)))
        assert table.schema.equals(arrow_schema(CONTRACT.folder(folder))), file.path
        folders[folder] += table.to_pylist()
        seen.add(folder)
    assert seen == set(folders), "every folder holds a file"
    return folders


def ids(folders: Folders, folder: str) -> set[str]:
    return {row["id"] for row in folders[folder]}


def references(folders: Folders) -> Iterator[tuple[str, str]]:
    """Every reference: the folder that it points into, and the key."""
    for row in folders["sensor_deployment"]:
        yield "sensor", row["sensor_id"]
    for row in folders["sensor_media_item"]:
        yield "sensor_deployment", row["sensor_deployment_id"]
    for row in folders["analysis_group_result"]:
        yield "algorithm", row["algorithm_id"]
        if row["sensor_deployment_id"] is not None:
            yield "sensor_deployment", row["sensor_deployment_id"]
        for item in row["media"] or ():
            if item["sensor_media_item_id"] is not None:
                yield "sensor_media_item", item["sensor_media_item_id"]


def contents(landing: DataLake) -> dict[str, bytes]:
    return {file.path: landing.read(file.path) for file in landing.walk()}


def nulls_in_lists(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from (element for element in value if element is None)
        for element in value:
            yield from nulls_in_lists(element)
    elif isinstance(value, dict):
        for child in value.values():
            yield from nulls_in_lists(child)


# The bundled deliveries.


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> list[Folders]:
    landing = DataLake.at(str(tmp_path_factory.mktemp("landing")))
    assert sample.land_bundled(landing) == list(sample.BUNDLED) == sorted(sample.BUNDLED)
    assert list(landing.list("dsi").folders) == list(sample.BUNDLED)
    return [read(landing, delivery) for delivery in sample.BUNDLED]


def results_of(deliveries: list[Folders]) -> list[dict[str, Any]]:
    return [row for folders in deliveries for row in folders["analysis_group_result"]]


def test_bundled_is_the_camtrap_example(bundled: list[Folders]) -> None:
    results = results_of(bundled)
    groups = [group for row in results for group in row["region_groups"]]
    boxes = [region["box"] for group in groups for region in group["regions"] if region["box"]]
    predictions = [prediction for row in results for prediction in row["predictions"]]
    taxa = [taxon for prediction in predictions for taxon in prediction["taxa"]["items"]]

    assert [len(folders["sensor_media_item"]) for folders in bundled] == [243, 120, 60, 0]
    assert [len(folders["analysis_group_result"]) for folders in bundled] == [7, 9, 3, 32]
    assert sum(len(folders["sensor_media_item"]) for folders in bundled) == MEDIA
    assert Counter(row["algorithm_id"] for row in results) == RESULTS
    assert len(groups) == MEDIA_OBSERVATIONS
    assert len(predictions) == OBSERVATIONS
    assert Counter(taxon["scientific_name"] for taxon in taxa) == SPECIES
    assert all(taxon["scientific_name_id"] for taxon in taxa)
    assert sum(taxon["probability"] is not None for taxon in taxa) == PROBABILITIES
    assert len(boxes) == BOXES
    assert all(0 <= box["x1"] < box["x2"] <= 1 and 0 <= box["y1"] < box["y2"] <= 1 for box in boxes)


def test_bundled_references_resolve_at_once_and_some_in_earlier_deliveries(bundled: list[Folders]) -> None:
    known: dict[str, set[str]] = {folder.name: set() for folder in CONTRACT.folders}
    earlier = Counter[str]()
    for folders in bundled:
        before = {name: set(keys) for name, keys in known.items()}
        for name, rows in folders.items():
            assert not ids(folders, name) & known[name], "no row is delivered twice"
            assert len(ids(folders, name)) == len(rows)
            known[name] |= ids(folders, name)
        for name, key in references(folders):
            assert key in known[name]
            earlier[name] += key in before[name]
    assert earlier["algorithm"] and earlier["sensor_deployment"] and earlier["sensor_media_item"]


def test_bundled_regions_and_predictions_point_into_their_result(bundled: list[Folders]) -> None:
    for row in results_of(bundled):
        media = {item["id"] for item in row["media"]}
        groups = {group["id"] for group in row["region_groups"]}
        assert media
        assert {region["media_id"] for group in row["region_groups"] for region in group["regions"]} <= media
        assert {item["region_group_id"] for item in row["predictions"]} - {None} == groups


def test_bundled_rows_are_older_than_their_delivery(bundled: list[Folders]) -> None:
    for delivery, folders in zip(sample.BUNDLED, bundled, strict=True):
        moment = datetime.strptime(f"{delivery}+0000", "%Y-%m-%d-%H:%M:%S%z")
        assert all(row["end_at"] < moment for row in folders["sensor_deployment"])
        assert all(row["captured_at"] < moment for row in folders["sensor_media_item"])
        assert all(row["created_at"] is None or row["created_at"] < moment for row in folders["analysis_group_result"])


def test_bundled_folder_names_can_be_checked_out_on_windows() -> None:
    paths = [path.relative_to(sample.BUNDLED_FOLDER) for path in sample.BUNDLED_FOLDER.rglob("*")]
    assert paths
    assert not [path for path in paths if set(str(path)) & set('<>:"|?*')]


def test_landing_again_writes_only_what_is_missing_or_of_another_size(tmp_path: Path) -> None:
    def seen() -> dict[Path, tuple[int, int]]:
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.rglob("*.parquet")}

    landing = DataLake.at(str(tmp_path))
    sample.land_bundled(landing)
    first = seen()
    sample.land_bundled(landing)
    assert seen() == first

    torn, lost = sorted(first)[:2]
    whole = torn.read_bytes()
    torn.write_bytes(whole[:100])
    lost.unlink()
    sample.land_bundled(landing)
    assert torn.read_bytes() == whole
    assert {file for file, mark in seen().items() if first[file] != mark} == {torn, lost}


def test_results_land_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = DataLake.at(str(tmp_path))
    written: list[str] = []
    monkeypatch.setattr(landing, "write", lambda path, data: written.append(path))
    sample.land_bundled(landing)
    for delivery in sample.BUNDLED:
        folders = [path.split("/")[2] for path in written if path.startswith(f"dsi/{delivery}/")]
        assert folders[-1] == RESULT
        assert len(folders) == 5


# How Camtrap DP maps.

EVENT = {"deploymentID": "d1", "eventID": "e1"}
MACHINE = {"classificationMethod": "machine", "classifiedBy": "A model Version 2"}
HUMAN = {"classificationMethod": "human", "classifiedBy": "Zoë"}


def package(folder: Path, observations: list[dict[str, str]]) -> Path:
    def lines(name: str, columns: str, rows: list[dict[str, str]]) -> None:
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns.split(), restval="")
            writer.writeheader()
            writer.writerows(rows)

    (folder / "datapackage.json").write_text(
        json.dumps(
            {
                "created": "2023-02-06T11:23:03Z",
                "project": {"id": "p", "title": "Project"},
                "taxonomic": [{"scientificName": "Ardea", "taxonID": "32FH"}],
            }
        )
    )
    lines(
        "deployments.csv",
        "deploymentID cameraID cameraModel locationName latitude longitude coordinateUncertainty habitat"
        " deploymentStart deploymentEnd",
        [
            {
                "deploymentID": "d1",
                "cameraID": "c",
                "deploymentStart": "2020-06-01T02:00:00+02:00",
                "deploymentEnd": "2020-06-02T02:00:00+02:00",
            }
        ],
    )
    lines(
        "media.csv",
        "mediaID deploymentID timestamp filePath fileName fileMediatype",
        [
            {
                "mediaID": "m1",
                "deploymentID": "d1",
                "timestamp": "2020-06-01T03:00:00+02:00",
                "fileName": "1.JPG",
                "fileMediatype": "image/jpeg",
            }
        ],
    )
    lines(
        "observations.csv",
        "observationID deploymentID mediaID eventID observationLevel scientificName individualID bboxX bboxY bboxWidth"
        " bboxHeight classificationMethod classifiedBy classificationTimestamp classificationProbability",
        observations,
    )
    return folder


def test_observations_become_results(tmp_path: Path) -> None:
    boxed = {"bboxX": "0.1", "bboxY": "0.2", "bboxWidth": "0.2", "bboxHeight": "0.4"}
    seen = {"scientificName": "Ardea", "classificationProbability": "0.9"}
    observations = [
        {**EVENT, **MACHINE, "observationID": "o0", "observationLevel": "event", **seen},
        {**EVENT, **MACHINE, "observationID": "o1", "observationLevel": "media", "mediaID": "m1", **seen, **boxed},
        {**EVENT, **MACHINE, "observationID": "o2", "observationLevel": "media", "mediaID": "m1"},
        {**EVENT, **HUMAN, "observationLevel": "event", "classificationTimestamp": "2020-06-03T00:00:00Z"},
    ]
    deliveries = camtrap.convert(package(tmp_path, observations))
    (human,) = deliveries[sample.BUNDLED[0]]["analysis_group_result"]
    (machine,) = deliveries[sample.BUNDLED[-1]]["analysis_group_result"]  # without a date: after the package was made

    assert machine["id"] == "e1-machine-a-model-version-2"
    assert [group["id"] for group in machine["region_groups"]] == ["o1", "o2"]
    assert [group["regions"] for group in machine["region_groups"]] == [
        [{"media_id": "m1", "box": {"x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.6}}],
        [{"media_id": "m1", "box": None}],
    ]
    heron = {"scientific_name": "Ardea", "scientific_name_id": "32FH", "probability": 0.9}
    assert machine["predictions"] == [
        {"region_group_id": "o1", "taxa": {"type": "multiclass", "items": [heron]}},
        {"region_group_id": "o2", "taxa": {"type": "multiclass", "items": []}},
        {"region_group_id": None, "taxa": {"type": "multiclass", "items": [heron]}},
    ]
    assert machine["generated_by"] is None
    assert human["region_groups"] == []
    assert human["media"] == machine["media"] == [{"id": "m1", "sensor_media_item_id": "m1", "filename": "1.JPG"}]
    assert human["predictions"] == [{"region_group_id": None, "taxa": {"type": "multiclass", "items": []}}]
    assert deliveries[sample.BUNDLED[-1]]["algorithm"][0]["version"] == "2"
    (deployment,) = deliveries[sample.BUNDLED[0]]["sensor_deployment"]
    assert deployment["start_at"].isoformat() == "2020-06-01T00:00:00+00:00"


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = package(tmp_path, [{**EVENT, **HUMAN, "observationID": "o", "observationLevel": "event"}])
    camtrap.write(camtrap.convert(source), tmp_path / "a")
    camtrap.write(camtrap.convert(source), tmp_path / "b")
    assert contents(DataLake.at(str(tmp_path / "a"))) == contents(DataLake.at(str(tmp_path / "b")))


# Synthetic deliveries.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A synthetic delivery of 200 results."""
    landing = DataLake.at(str(tmp_path_factory.mktemp("landing")))
    (name,) = synthetic.write(landing, results=200, seed=3)
    return read(landing, name)


def test_the_seed_decides_names_and_bytes(tmp_path: Path) -> None:
    lakes = [DataLake.at(str(tmp_path / name)) for name in "abc"]
    first = synthetic.write(lakes[0], results=60, seed=1, deliveries=2)
    assert synthetic.write(lakes[1], results=60, seed=1, deliveries=2) == first
    other = synthetic.write(lakes[2], results=60, seed=2, deliveries=2)
    assert contents(lakes[0]) == contents(lakes[1])
    assert len({*first, *other}) == 4
    assert not set(contents(lakes[0]).values()) & set(contents(lakes[2]).values())
    assert all(datetime.strptime(f"{name}+0000", "%Y-%m-%d-%H:%M:%S%z") for name in first)
    # Each delivery is another one, with keys of its own.
    one, two = (read(lakes[0], name) for name in first)
    assert not any(ids(one, folder) & ids(two, folder) for folder in one)


@pytest.mark.parametrize("results", [0, 1, 2, 50])
def test_any_number_of_results(tmp_path: Path, results: int) -> None:
    reported: list[int] = []
    landing = DataLake.at(str(tmp_path))
    (name,) = synthetic.write(landing, results=results, seed=5, on_progress=reported.append)
    folders = read(landing, name)
    assert len(folders["analysis_group_result"]) == results == sum(reported)
    assert all(key in ids(folders, folder) for folder, key in references(folders))


def test_several_files_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "RESULTS_PER_FILE", 40)
    reported: list[int] = []
    landing = DataLake.at(str(tmp_path))
    (name,) = synthetic.write(landing, results=100, seed=5, on_progress=reported.append)
    folders = read(landing, name)
    assert reported == [40, 40, 20]
    assert len(landing.list(f"dsi/{name}/sensor_media_item").files) == 3
    assert len(ids(folders, "analysis_group_result")) == 100
    assert len(ids(folders, "sensor_media_item")) == len(folders["sensor_media_item"])
    assert all(key in ids(folders, folder) for folder, key in references(folders))


@pytest.mark.parametrize("wrong", [{"results": -1}, {"seed": -1}, {"deliveries": 0}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(BiocloudError, match=rf"^{next(iter(wrong))} of a synthetic delivery: expected \d or more"):
        synthetic.write(DataLake.at(str(tmp_path)), **({"results": 1, "seed": 1} | wrong))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_synthetic_is_valid(made: Folders) -> None:
    for folder in CONTRACT.folders:
        rows = made[folder.name]
        assert len(ids(made, folder.name)) == len(rows) > 0
        required = [field.name for field in folder.fields if field.presence is not Presence.OPTIONAL]
        assert all(row[name] is not None for row in rows for name in required)
    assert all(key in ids(made, folder) for folder, key in references(made))
    assert not list(nulls_in_lists(made["analysis_group_result"]))
    for row in made["analysis_group_result"]:
        media = {item["id"] for item in row["media"] or ()}
        groups = {group["id"] for group in row["region_groups"] or ()}
        for group in row["region_groups"] or ():
            for region in group["regions"] or ():
                assert region["media_id"] is None or region["media_id"] in media
                box = region["box"] or {}
                assert all(0 <= box[side] <= 1 for side in ("x1", "y1", "x2", "y2") if box.get(side) is not None)
                for low, high in BOX.ordered:
                    assert box.get(low) is None or box[low] <= box[high]
        for prediction in row["predictions"] or ():
            assert prediction["region_group_id"] is None or prediction["region_group_id"] in groups
            items = (prediction["taxa"] or {}).get("items") or []
            assert all(item["probability"] is None or 0 <= item["probability"] <= 1 for item in items)
    for row in made["sensor_deployment"]:
        assert row["end_at"] is None or row["start_at"] <= row["end_at"]


@pytest.mark.parametrize("seed", range(5))
def test_every_edge_case_occurs(tmp_path: Path, seed: int) -> None:
    landing = DataLake.at(str(tmp_path))
    (name,) = synthetic.write(landing, results=200, seed=seed)
    made = read(landing, name)
    results = made["analysis_group_result"]
    groups = [group for row in results for group in row["region_groups"] or ()]
    regions = [region for group in groups for region in group["regions"] or ()]
    boxes = [region["box"] for region in regions if region["box"]]
    predictions = [prediction for row in results for prediction in row["predictions"] or ()]
    taxa = [prediction["taxa"] for prediction in predictions if prediction["taxa"]]
    items = [item for each in taxa for item in each["items"] or ()]

    # Lists: null, empty, of one and of several, at every level.
    lists = {
        "media": [row["media"] for row in results],
        "region_groups": [row["region_groups"] for row in results],
        "regions": [group["regions"] for group in groups],
        "predictions": [row["predictions"] for row in results],
        "items": [each["items"] for each in taxa],
    }
    for path, values in lists.items():
        lengths = {None if value is None else min(len(value), 2) for value in values}
        assert lengths == {None, 0, 1, 2}, path

    # Structures and values: both null and not, wherever the contract allows null.
    optional = {
        "algorithm": made["algorithm"],
        "sensor": made["sensor"],
        "sensor_deployment": made["sensor_deployment"],
        "sensor_media_item": made["sensor_media_item"],
        "media": [row["media"] for row in made["sensor_media_item"] if row["media"]],
        "result": results,
        "generated_by": [row["generated_by"] for row in results if row["generated_by"]],
        "group": groups,
        "region": regions,
        "box": boxes,
        "prediction": predictions,
        "taxa": taxa,
        "item": items,
    }
    never_null = {"id", "name", "type", "sensor_id", "sensor_deployment_id", "algorithm_id"}
    always_there = {"media_type", "created_at", "start_at", "filename"}
    for what, rows in optional.items():
        for field in rows[0]:
            nulls = {row[field] is None for row in rows}
            assert False in nulls, (what, field)
            assert True in nulls or field in never_null | always_there, (what, field)

    # Boxes: of images without a time, of audio without sides.
    kinds = {tuple(side for side, value in box.items() if value is not None) for box in boxes}
    assert kinds == {("x1", "y1", "x2", "y2"), ("t1", "t2")}

    assert any(each["type"] == "multilabel" and len(each["items"] or ()) > 1 for each in taxa)
    assert any(each["type"] == "multiclass" and len(each["items"] or ()) == 1 for each in taxa)

    text = "".join({item["scientific_name"] or "" for item in items})
    for character in ("×", "ë", "\u0308", "大", "🦊", "ث", '"', "\\"):
        assert character in text, unicodedata.name(character)

    parameters = [row["generated_by"]["parameters"] for row in results if row["generated_by"]]
    assert any(json.loads(each).get("crop") for each in parameters if each)


def test_synthetic_files_carry_no_metadata_of_arrow_or_pandas(tmp_path: Path) -> None:
    landing = DataLake.at(str(tmp_path))
    synthetic.write(landing, results=1, seed=1)
    for data in contents(landing).values():
        file = pq.ParquetFile(pa.BufferReader(data))
        assert file.metadata.metadata is None
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
