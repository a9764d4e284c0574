"""The contract language, and DSI's contract written in it: what is derived is consistent."""

from __future__ import annotations

import pyarrow as pa
import pytest

from biocloud_assets.ingest.unnest import source_fields
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import (
    DELIVERY_COLUMN,
    RESCUED_COLUMN,
    Column,
    Folder,
    ListOf,
    Presence,
    Struct,
    Table,
    arrow_schema,
    arrow_type,
    column_lineage,
    list_element,
    spark_read_schema,
    spark_schema,
    spark_type,
    type_name,
    walk,
)

TABLES = [*CONTRACT.tables, CONTRACT.log]


def fields_of(folder: Folder) -> dict[str, object]:
    return {path: field.type for path, field in walk(folder.fields)}


def test_paths_of_nested_fields_have_dots_and_brackets() -> None:
    paths = [path for path, _ in walk(CONTRACT.folder(RESULT).fields)]
    assert "region_groups[].regions[].box.x1" in paths
    assert "predictions[].taxa.items[].probability" in paths
    assert paths.index("predictions") < paths.index("predictions[].taxa") < paths.index("predictions[].taxa.items")
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("folder", CONTRACT.folders, ids=lambda folder: folder.name)
def test_every_folder_has_one_key_and_one_table_of_its_records(folder: Folder) -> None:
    assert [field.name for field in folder.fields if field.presence is Presence.KEY] == [folder.key]
    assert CONTRACT.record_table(folder.name).key == ("id",)
    assert [table.name for table in CONTRACT.tables_of(folder.name) if not table.levels] == [folder.name]


def test_references_lead_to_a_folder_that_comes_first() -> None:
    names = [folder.name for folder in CONTRACT.folders]
    for position, folder in enumerate(CONTRACT.folders):
        for path, field in walk(folder.fields):
            assert field.references is None or field.references in names[:position], path


@pytest.mark.parametrize("table", CONTRACT.tables, ids=lambda table: table.name)
def test_every_column_is_made_from_a_field_of_its_type(table: Table) -> None:
    assert table.folder is not None
    fields = fields_of(CONTRACT.folder(table.folder))
    for column in table.columns:
        if column.source is None:
            assert column.name in {RESCUED_COLUMN, DELIVERY_COLUMN}
        elif column.takes == "value":
            assert column.type == fields[column.source], column.name
        else:
            assert column.type == "int", column.name
            assert isinstance(fields[column.source.removesuffix("[]")], ListOf), column.name


def test_every_field_is_in_a_table() -> None:
    """So that un-nesting loses nothing."""
    for folder in CONTRACT.folders:
        kept = {column.source for table in CONTRACT.tables_of(folder.name) for column in table.columns}
        for path, field in walk(folder.fields):
            inside = any(source and path.startswith(f"{source}.") for source in kept)
            if isinstance(field.type, Struct):
                continue
            assert path in kept or inside, path
            if isinstance(field.type, ListOf):
                sizes = {column.source for t in CONTRACT.tables for column in t.columns if column.takes == "size"}
                assert path in sizes, f"without its length, a null {path} would read as an empty one"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_has_its_key_and_is_partitioned_by_delivery(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert set(table.key) <= set(names)
    assert set(table.required_key) <= set(table.key)
    assert names[-1] == DELIVERY_COLUMN


def test_only_the_index_of_an_element_that_may_be_missing_is_not_required() -> None:
    prediction = CONTRACT.table("analysis_group_result_prediction")
    assert set(prediction.key) - set(prediction.required_key) == {"taxon_index"}
    assert all(table.key == table.required_key for table in TABLES if not table.keeps_empty)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_schemas_of_arrow_and_spark_agree(table: Table) -> None:
    from pyspark.sql.pandas.types import to_arrow_schema

    expected = pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])
    found = to_arrow_schema(spark_schema(table), timezone="UTC")
    assert [(field.name, str(field.type)) for field in found] == [(field.name, str(field.type)) for field in expected]


def test_the_layout_of_a_copy_has_rescued_in_the_record_and_in_every_element_of_a_list() -> None:
    schema = arrow_schema(CONTRACT.folder(RESULT), rescued=True)
    assert schema.names[-1] == RESCUED_COLUMN
    groups = schema.field("region_groups").type.value_type
    regions = groups.field("regions").type.value_type
    for element in (schema.field("media").type.value_type, groups, regions):
        assert element.field(element.num_fields - 1).name == RESCUED_COLUMN
    assert RESCUED_COLUMN not in [field.name for field in regions.field("box").type], (
        "a structure has no row of its own"
    )
    assert RESCUED_COLUMN not in str(arrow_schema(CONTRACT.folder(RESULT)))
    spark = spark_type(dict(walk(CONTRACT.folder(RESULT).fields))["media"].type, rescued=True)
    assert RESCUED_COLUMN in spark.simpleString()


def test_an_engine_reads_one_field_of_a_list_whose_length_is_needed_and_none_of_what_is_not() -> None:
    folder = CONTRACT.folder(RESULT)
    assert spark_read_schema(folder, source_fields(CONTRACT.table(RESULT)), rescued=False).simpleString() == (
        "struct<id:string,analysis_group_id:string,algorithm_id:string,sensor_deployment_id:string,"
        "generated_by:struct<datetime:timestamp,tag:string,version:string,parameters:string>,"
        "media:array<struct<id:string>>,region_groups:array<struct<id:string>>,"
        "predictions:array<struct<region_group_id:string>>,created_at:timestamp>"
    )
    groups = spark_read_schema(folder, source_fields(CONTRACT.table(f"{RESULT}_region_group")), rescued=True)
    assert groups.simpleString() == (
        "struct<id:string,region_groups:array<struct<id:string,individual_id:string,"
        "regions:array<struct<media_id:string,_rescued:string>>,_rescued:string>>,_rescued:string>"
    )


@pytest.mark.parametrize("folder", CONTRACT.folders, ids=lambda folder: folder.name)
def test_with_all_fields_an_engine_reads_the_whole_folder(folder: Folder) -> None:
    paths = [path for path, _ in walk(folder.fields)]
    assert [(field.name, field.dataType) for field in spark_read_schema(folder, paths, rescued=False)] == [
        (field.name, spark_type(field.type)) for field in folder.fields
    ]


def test_lineage_names_the_column_of_the_folder() -> None:
    lineage = column_lineage(CONTRACT.table("analysis_group_result_region"))
    assert lineage["x1"] == ["region_groups"]
    assert lineage["result_id"] == ["id"]
    assert not {RESCUED_COLUMN, DELIVERY_COLUMN} & set(lineage)


def test_types_are_written_as_people_read_them() -> None:
    fields = fields_of(CONTRACT.folder("algorithm"))
    assert type_name(fields["taxonomy"]) == "struct<namespace: string, version: string>"  # type: ignore[arg-type]
    media = dict(walk(CONTRACT.folder(RESULT).fields))["media"].type
    assert type_name(media) == "list<struct<id: string, sensor_media_item_id: string, filename: string>>"
    assert list_element(CONTRACT.folder(RESULT), "media[]").fields[0].name == "id"


def test_one_address_names_asset_and_path() -> None:
    assert CONTRACT.address(CONTRACT.table("sensor")) == "raw/dsi/sensor"
    assert CONTRACT.landing_address("sensor") == "landing/dsi/sensor"
    assert len(CONTRACT.addresses) == 5 + 9 + 1
    assert CONTRACT.addresses[-1] == "raw/dsi/delivery"


def test_the_log_counts_the_rows_of_each_table() -> None:
    rows = next(column for column in CONTRACT.log.columns if column.name == "rows")
    assert isinstance(rows, Column)
    assert isinstance(rows.type, Struct)
    assert [field.name for field in rows.type.fields] == [table.name for table in CONTRACT.tables]
    assert {"code_version", "code_commit"} <= {column.name for column in CONTRACT.log.columns}
