"""The DSI delivery contract, version 1, as data.

What belongs here: folders, columns, types, keys, references, ranges and the tables that are made of them. Schemas for
Spark and Arrow, the checks, the column lineage and the docs tables are derived from this data; a new folder or table
is one entry. What doesn't: anything that reads or writes.

The field names of results follow the response format of Naturalis' identification service: media, region groups,
regions with a box, predictions with taxa.

Paths of nested fields are written with dots, and `[]` behind a list: `region_groups[].regions[].box.x1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import DataType, StructType

VERSION = 1
"""The version of the contract, written into the delivery log."""

DELIVERY_COLUMN = "_delivery"
"""The delivery's datetime as written; every table is partitioned by it."""

RESCUED_COLUMN = "_rescued"
"""A JSON object of what the contract doesn't know, or null."""

Scalar = Literal["string", "int", "long", "double", "timestamp"]


class Presence(StrEnum):
    """Whether a column may be null. In the file everything is nullable; this is checked after reading."""

    OPTIONAL = "optional"
    REQUIRED = "required"
    KEY = "key"


@dataclass(frozen=True)
class Struct:
    """A structure of fields."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class ListOf:
    """A list of structures. A null element is a fault."""

    element: Struct


@dataclass(frozen=True)
class Field:
    """A column of a folder, or a field in one.

    Attributes:
        name: as in the file.
        type: a scalar (`timestamp` is in UTC, microseconds), a `Struct` or a `ListOf`.
        description: what it holds, with its unit.
        presence: whether it may be null.
        references: the folder whose `id` it must match; a value that matches nothing is a warning.
        range: the lowest and highest value; one outside is a warning.
    """

    name: str
    type: Scalar | Struct | ListOf
    description: str
    presence: Presence = Presence.OPTIONAL
    references: str | None = None
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Folder:
    """A folder of a delivery: one or more Parquet files of the same columns."""

    name: str
    description: str
    fields: tuple[Field, ...]

    @property
    def key(self) -> str:
        """The name of the key column."""
        return next(field.name for field in self.fields if field.presence is Presence.KEY)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: as in the table.
        type: a scalar or a `Struct`.
        description: what it holds, with its unit.
        source: the path of the field it is made from; None for what Biocloud adds.
        takes: `value` of the field, the `index` of the list's element (from 0), or the `size` of the list.
    """

    name: str
    type: Scalar | Struct
    description: str
    source: str | None = None
    takes: Literal["value", "index", "size"] = "value"


@dataclass(frozen=True)
class Table:
    """A Delta table of the raw layer.

    Attributes:
        name: the last part of its address, `raw/dsi/<name>`.
        folder: the folder of the delivery that it is made from; none for the delivery log.
        row: what one row stands for.
        columns: its columns, in order.
        key: the columns that tell its rows apart within one delivery.
        levels: the paths of the lists that are un-nested, outermost first; none for one row per record.
        keeps_empty: an element of the last but one level whose innermost list is null or empty keeps one row.
    """

    name: str
    folder: str | None
    row: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    levels: tuple[str, ...] = ()
    keeps_empty: bool = False

    @property
    def required_key(self) -> tuple[str, ...]:
        """The columns of the key that are never null: all but the index of an element that may be missing."""
        missing = self.levels[-1] if self.keeps_empty else None
        nullable = {item.name for item in self.columns if missing and item.source == missing}
        return tuple(name for name in self.key if name not in nullable)

    @property
    def path(self) -> str:
        """The table's address: its path in the lake, and its asset key."""
        return f"raw/dsi/{self.name}"


_CREATED = Field("created_at", "timestamp", "When the record was made in DSI's system, UTC")
_UPDATED = Field("updated_at", "timestamp", "When the record was last changed in DSI's system, UTC")
_FRACTION = (0.0, 1.0)


def _id(what: str) -> Field:
    return Field("id", "string", f"Identifier of the {what}", Presence.KEY)


FOLDERS: tuple[Folder, ...] = (
    Folder(
        "algorithm",
        "The recognition models, by version.",
        (
            _id("algorithm"),
            Field("name", "string", "Name of the model", Presence.REQUIRED),
            Field("version", "string", "Version of the model"),
            Field("tag", "string", "Tag that the model was released under"),
            Field("description", "string", "What the model does"),
            Field("media_type", "string", "What it takes: image, audio, video"),
            Field(
                "taxonomy",
                Struct(
                    (
                        Field("namespace", "string", "The taxonomy that its names come from"),
                        Field("version", "string", "Version of that taxonomy"),
                    )
                ),
                "The taxonomy of the names that it predicts",
            ),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "sensor",
        "The devices that record: cameras, audio recorders and others.",
        (
            _id("sensor"),
            Field("name", "string", "Name of the sensor"),
            Field("type", "string", "Kind of device: camera, audio_recorder, …", Presence.REQUIRED),
            Field("model", "string", "Maker's model"),
            Field("serial_number", "string", "Maker's serial number"),
            Field(
                "owner",
                Struct(
                    (Field("id", "string", "Identifier of the owner"), Field("name", "string", "Name of the owner"))
                ),
                "Whose device it is",
            ),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "sensor_deployment",
        "Where and when a sensor stood.",
        (
            _id("deployment"),
            Field("sensor_id", "string", "The sensor that was deployed", Presence.REQUIRED, references="sensor"),
            Field("name", "string", "Name of the deployment"),
            Field(
                "location",
                Struct(
                    (
                        Field("latitude", "double", "Latitude, WGS 84, decimal degrees"),
                        Field("longitude", "double", "Longitude, WGS 84, decimal degrees"),
                        Field("coordinate_uncertainty_m", "double", "Radius of uncertainty, metres"),
                        Field("elevation_m", "double", "Elevation above sea level, metres"),
                    )
                ),
                "Where it stood",
            ),
            Field(
                "project",
                Struct(
                    (
                        Field("id", "string", "Identifier of the project"),
                        Field("name", "string", "Name of the project"),
                    )
                ),
                "The project that it was deployed for",
            ),
            Field("habitat", "string", "The habitat around it"),
            Field("start_at", "timestamp", "Start of the deployment, UTC"),
            Field("end_at", "timestamp", "End of the deployment, UTC"),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "sensor_media_item",
        "The recordings: images, audio, video.",
        (
            _id("media item"),
            Field(
                "sensor_deployment_id",
                "string",
                "The deployment that recorded it",
                Presence.REQUIRED,
                references="sensor_deployment",
            ),
            Field("captured_at", "timestamp", "When it was recorded, UTC"),
            Field(
                "media",
                Struct(
                    (
                        Field("type", "string", "Kind of medium: image, audio, video"),
                        Field("mime_type", "string", "Media type, as in RFC 6838"),
                        Field("filename", "string", "Name of the file"),
                        Field("uri", "string", "Where the file lies"),
                        Field("size_bytes", "long", "Size of the file, bytes"),
                        Field("width_px", "int", "Width, pixels"),
                        Field("height_px", "int", "Height, pixels"),
                        Field("duration_s", "double", "Duration, seconds"),
                    )
                ),
                "The file",
            ),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "analysis_group_result",
        "What an algorithm recognised in a group of media: regions, and the taxa predicted for them.",
        (
            _id("result"),
            Field("analysis_group_id", "string", "The group of media that was analysed together"),
            Field("algorithm_id", "string", "The algorithm", Presence.REQUIRED, references="algorithm"),
            Field(
                "sensor_deployment_id",
                "string",
                "The deployment that the media come from",
                references="sensor_deployment",
            ),
            Field(
                "generated_by",
                Struct(
                    (
                        Field("datetime", "timestamp", "When the result was generated, UTC"),
                        Field("tag", "string", "Tag of the service that generated it"),
                        Field("version", "string", "Version of that service"),
                        Field("parameters", "string", "Its parameters, JSON"),
                    )
                ),
                "What generated the result",
            ),
            Field(
                "media",
                ListOf(
                    Struct(
                        (
                            Field("id", "string", "Identifier of the medium within the result"),
                            Field(
                                "sensor_media_item_id",
                                "string",
                                "The recording",
                                references="sensor_media_item",
                            ),
                            Field("filename", "string", "Name of the file"),
                        )
                    )
                ),
                "The media that were analysed",
            ),
            Field(
                "region_groups",
                ListOf(
                    Struct(
                        (
                            Field("id", "string", "Identifier of the region group within the result"),
                            Field("individual_id", "string", "The individual that its regions show"),
                            Field(
                                "regions",
                                ListOf(
                                    Struct(
                                        (
                                            Field("media_id", "string", "The medium, as in `media[].id`"),
                                            Field(
                                                "box",
                                                Struct(
                                                    (
                                                        Field(
                                                            "x1", "double", "Left, fraction of width", range=_FRACTION
                                                        ),
                                                        Field(
                                                            "y1", "double", "Top, fraction of height", range=_FRACTION
                                                        ),
                                                        Field(
                                                            "x2", "double", "Right, fraction of width", range=_FRACTION
                                                        ),
                                                        Field(
                                                            "y2",
                                                            "double",
                                                            "Bottom, fraction of height",
                                                            range=_FRACTION,
                                                        ),
                                                        Field("t1", "double", "Start, seconds"),
                                                        Field("t2", "double", "End, seconds"),
                                                    )
                                                ),
                                                "The part of the medium; a null side is unbounded",
                                            ),
                                        )
                                    )
                                ),
                                "The regions of one individual or object",
                            ),
                        )
                    )
                ),
                "The groups of regions that were recognised",
            ),
            Field(
                "predictions",
                ListOf(
                    Struct(
                        (
                            Field("region_group_id", "string", "The region group, as in `region_groups[].id`"),
                            Field(
                                "taxa",
                                Struct(
                                    (
                                        Field("type", "string", "`multiclass` (one of the taxa) or `multilabel` (any)"),
                                        Field(
                                            "items",
                                            ListOf(
                                                Struct(
                                                    (
                                                        Field(
                                                            "scientific_name", "string", "Scientific name of the taxon"
                                                        ),
                                                        Field(
                                                            "scientific_name_id", "string", "Identifier of that name"
                                                        ),
                                                        Field(
                                                            "probability",
                                                            "double",
                                                            "Probability, 0 to 1",
                                                            range=_FRACTION,
                                                        ),
                                                    )
                                                )
                                            ),
                                            "The predicted taxa",
                                        ),
                                    )
                                ),
                                "The taxa predicted for the region group",
                            ),
                        )
                    )
                ),
                "The predictions",
            ),
            _CREATED,
        ),
    ),
)

RESULT = "analysis_group_result"

BOX_SIDES: tuple[tuple[str, str], ...] = (("x1", "x2"), ("y1", "y2"), ("t1", "t2"))
"""The fields of a box of which the first must not be greater than the second; an inverted box is a warning."""


_ADDED = (
    Column(RESCUED_COLUMN, "string", "What the contract doesn't know of this row: a JSON object, or null"),
    Column(DELIVERY_COLUMN, "string", "The delivery's datetime as written, UTC: the partition"),
)


def _copied(folder: Folder) -> Table:
    columns = []
    for field in folder.fields:
        assert not isinstance(field.type, ListOf), field  # a folder with lists is un-nested, not copied
        columns.append(Column(field.name, field.type, field.description, field.name))
    return Table(folder.name, folder.name, f"one {folder.name.replace('_', ' ')}", (*columns, *_ADDED), (folder.key,))


_RESULT_ID = Column("result_id", "string", "The result", "id")
_GROUP_INDEX = Column(
    "region_group_index", "int", "Index of the region group in the result, from 0", "region_groups[]", "index"
)
_GROUP_ID = Column(
    "region_group_id", "string", "Identifier of the region group within the result", "region_groups[].id"
)
_BOX = "region_groups[].regions[].box"
_ITEM = "predictions[].taxa.items[]"

TABLES: tuple[Table, ...] = (
    *(_copied(folder) for folder in FOLDERS if folder.name != RESULT),
    Table(
        "analysis_group_result",
        RESULT,
        "one result",
        (
            Column("id", "string", "Identifier of the result", "id"),
            Column("analysis_group_id", "string", "The group of media that was analysed together", "analysis_group_id"),
            Column("algorithm_id", "string", "The algorithm", "algorithm_id"),
            Column("sensor_deployment_id", "string", "The deployment that the media come from", "sensor_deployment_id"),
            Column("generated_at", "timestamp", "When the result was generated, UTC", "generated_by.datetime"),
            Column("generated_tag", "string", "Tag of the service that generated it", "generated_by.tag"),
            Column("generated_version", "string", "Version of that service", "generated_by.version"),
            Column("generated_parameters", "string", "Its parameters, JSON", "generated_by.parameters"),
            Column("media_count", "int", "Number of media; null for a null list", "media", "size"),
            Column(
                "region_group_count", "int", "Number of region groups; null for a null list", "region_groups", "size"
            ),
            Column("prediction_count", "int", "Number of predictions; null for a null list", "predictions", "size"),
            Column("created_at", "timestamp", "When the record was made in DSI's system, UTC", "created_at"),
            *_ADDED,
        ),
        ("id",),
    ),
    Table(
        "analysis_group_result_media",
        RESULT,
        "one medium of a result",
        (
            _RESULT_ID,
            Column("media_index", "int", "Index of the medium in the result, from 0", "media[]", "index"),
            Column("media_id", "string", "Identifier of the medium within the result", "media[].id"),
            Column("sensor_media_item_id", "string", "The recording", "media[].sensor_media_item_id"),
            Column("filename", "string", "Name of the file", "media[].filename"),
            *_ADDED,
        ),
        ("result_id", "media_index"),
        ("media[]",),
    ),
    Table(
        "analysis_group_result_region_group",
        RESULT,
        "one region group of a result",
        (
            _RESULT_ID,
            _GROUP_INDEX,
            _GROUP_ID,
            Column("individual_id", "string", "The individual that its regions show", "region_groups[].individual_id"),
            Column("region_count", "int", "Number of regions; null for a null list", "region_groups[].regions", "size"),
            *_ADDED,
        ),
        ("result_id", "region_group_index"),
        ("region_groups[]",),
    ),
    Table(
        "analysis_group_result_region",
        RESULT,
        "one region of a region group",
        (
            _RESULT_ID,
            _GROUP_INDEX,
            _GROUP_ID,
            Column(
                "region_index",
                "int",
                "Index of the region in the region group, from 0",
                "region_groups[].regions[]",
                "index",
            ),
            Column("media_id", "string", "The medium that it is a part of", "region_groups[].regions[].media_id"),
            Column("x1", "double", "Left, fraction of width", f"{_BOX}.x1"),
            Column("y1", "double", "Top, fraction of height", f"{_BOX}.y1"),
            Column("x2", "double", "Right, fraction of width", f"{_BOX}.x2"),
            Column("y2", "double", "Bottom, fraction of height", f"{_BOX}.y2"),
            Column("t1", "double", "Start, seconds", f"{_BOX}.t1"),
            Column("t2", "double", "End, seconds", f"{_BOX}.t2"),
            *_ADDED,
        ),
        ("result_id", "region_group_index", "region_index"),
        ("region_groups[]", "region_groups[].regions[]"),
    ),
    Table(
        "analysis_group_result_prediction",
        RESULT,
        "one predicted taxon; a prediction without items keeps one row with taxon_index null",
        (
            _RESULT_ID,
            Column(
                "prediction_index", "int", "Index of the prediction in the result, from 0", "predictions[]", "index"
            ),
            Column("region_group_id", "string", "The region group that it is for", "predictions[].region_group_id"),
            Column(
                "taxa_type", "string", "`multiclass` (one of the taxa) or `multilabel` (any)", "predictions[].taxa.type"
            ),
            Column("taxon_count", "int", "Number of taxa; null for a null list", "predictions[].taxa.items", "size"),
            Column("taxon_index", "int", "Index of the taxon in the prediction, from 0", _ITEM, "index"),
            Column("scientific_name", "string", "Scientific name of the taxon", f"{_ITEM}.scientific_name"),
            Column("scientific_name_id", "string", "Identifier of that name", f"{_ITEM}.scientific_name_id"),
            Column("probability", "double", "Probability, 0 to 1", f"{_ITEM}.probability"),
            *_ADDED,
        ),
        ("result_id", "prediction_index", "taxon_index"),
        ("predictions[]", _ITEM),
        keeps_empty=True,
    ),
)

LOG = Table(
    "delivery",
    None,
    "one ingested delivery",
    (
        Column("contract_version", "int", "The version of the contract that it was ingested under"),
        # A structure, for the engines don't agree on how a map lies in Parquet.
        Column(
            "rows",
            Struct(tuple(Field(table.name, "long", f"Rows of {table.name}") for table in TABLES)),
            "Rows per table",
        ),
        Column("engine", "string", "What ran the Spark code: sail, jvm, databricks"),
        Column("orchestrator", "string", "What asked for it: dagster, airflow, a person's script"),
        Column("run_id", "string", "The orchestrator's identifier of the run"),
        Column("ingested_at", "timestamp", "When all tables held the delivery, UTC"),
        Column("source_files", "int", "Number of Parquet files in the delivery"),
        Column("source_bytes", "long", "Their size together, bytes"),
        Column(
            "source_fingerprint", "string", "Digest of their names, sizes and tags or times: tells a changed delivery"
        ),
        Column(DELIVERY_COLUMN, "string", "The delivery's datetime as written, UTC: the key and the partition"),
    ),
    (DELIVERY_COLUMN,),
)
"""The delivery log: a delivery that is in it is ingested, and one that isn't, is not."""


def folder(name: str) -> Folder:
    """The folder of that name."""
    return next(item for item in FOLDERS if item.name == name)


def table(name: str) -> Table:
    """The table of that name."""
    return next(item for item in TABLES if item.name == name)


def walk(fields: tuple[Field, ...], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every field with its path, outer ones first."""
    for field in fields:
        path = f"{prefix}{field.name}"
        yield path, field
        if isinstance(field.type, Struct):
            yield from walk(field.type.fields, f"{path}.")
        elif isinstance(field.type, ListOf):
            yield from walk(field.type.element.fields, f"{path}[].")


def spark_schema(of: Table) -> StructType:
    """The schema of a table for Spark. Everything is nullable, as in the files."""
    from pyspark.sql.types import StructField, StructType

    return StructType([StructField(item.name, spark_type(item.type)) for item in of.columns])


def spark_type(type_: Scalar | Struct | ListOf, *, rescued: bool = False) -> DataType:
    """A type for Spark; if wanted, with a `_rescued` in every structure that stands in a list."""
    from pyspark.sql import types

    if isinstance(type_, Struct):
        return types.StructType(
            [types.StructField(field.name, spark_type(field.type, rescued=rescued)) for field in type_.fields]
        )
    if isinstance(type_, ListOf):
        element = spark_type(type_.element, rescued=rescued)
        if rescued and isinstance(element, types.StructType):
            element = types.StructType([*element, types.StructField(RESCUED_COLUMN, types.StringType())])
        return types.ArrayType(element)
    scalars: dict[Scalar, DataType] = {
        "string": types.StringType(),
        "int": types.IntegerType(),
        "long": types.LongType(),
        "double": types.DoubleType(),
        "timestamp": types.TimestampType(),
    }
    return scalars[type_]


def arrow_type(type_: Scalar | Struct | ListOf) -> pa.DataType:
    """A type for Arrow, as a delivery's files have it when nothing needs to be cast."""
    import pyarrow as pa

    if isinstance(type_, Struct):
        return pa.struct([(field.name, arrow_type(field.type)) for field in type_.fields])
    if isinstance(type_, ListOf):
        return pa.list_(arrow_type(type_.element))
    scalars: dict[Scalar, pa.DataType] = {
        "string": pa.string(),
        "int": pa.int32(),
        "long": pa.int64(),
        "double": pa.float64(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    return scalars[type_]


def arrow_schema(of: Folder) -> pa.Schema:
    """The schema of a folder's files for Arrow."""
    import pyarrow as pa

    return pa.schema([(field.name, arrow_type(field.type)) for field in of.fields])


def type_name(type_: Scalar | Struct | ListOf) -> str:
    """A type as people read it: `struct<latitude: double, …>`."""
    if isinstance(type_, Struct):
        return "struct<" + ", ".join(f"{field.name}: {type_name(field.type)}" for field in type_.fields) + ">"
    if isinstance(type_, ListOf):
        return f"list<{type_name(type_.element)}>"
    return type_


def column_lineage(of: Table) -> dict[str, list[str]]:
    """For each column that is made from the delivery: the top-level columns of the folder that it comes from.

    `_rescued` comes from whatever the contract doesn't know and `_delivery` from the path, so neither is named.
    """
    return {
        item.name: [item.source.partition("[]")[0].partition(".")[0]] for item in of.columns if item.source is not None
    }
