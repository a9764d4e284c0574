"""The language in which a delivery contract is written: folders, fields, tables and columns, as data.

A source is one `Contract`. Arrow and Spark schemas, validation, checks, column lineage, Dagster assets, the Airflow
export and the docs page are derived from it. The contract of DSI is `biocloud_assets.raw.dsi.contract`.

Paths of nested fields are written with dots, and `[]` behind a list: `region_groups[].regions[].box.x1`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.types import DataType, StructType

DELIVERY_COLUMN = "_delivery"
"""The name of the delivery; every table is partitioned by it."""

RESCUED_COLUMN = "_rescued"
"""A JSON object with the fields of a row that the contract doesn't know, or null."""

Scalar = Literal["string", "int", "long", "double", "timestamp"]


class Presence(StrEnum):
    """Whether a column may be null. In the file everything is nullable; nulls are found when values are read."""

    OPTIONAL = "optional"
    REQUIRED = "required"
    KEY = "key"


@dataclass(frozen=True)
class Struct:
    """A structure of fields.

    Attributes:
        fields: its fields.
        ordered: pairs of number fields (start, end); a start that is greater than its end is a warning.
    """

    fields: tuple[Field, ...]
    ordered: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ListOf:
    """A list of structures.

    Attributes:
        element: the structure of its elements. A null element is a violation.
    """

    element: Struct


@dataclass(frozen=True)
class Field:
    """A column of a folder, or a field in one.

    Attributes:
        name: as in the file.
        type: a scalar (`timestamp` is in UTC, microseconds), a `Struct` or a `ListOf`.
        description: what it holds, with its unit.
        presence: whether it may be null.
        references: the folder whose key it must match; a value that matches no key is a warning.
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
    """A folder of a delivery: one or more Parquet files with the same columns.

    Attributes:
        name: the name of the folder, `sensor`.
        description: what it holds, in a sentence.
        fields: its columns, in the order of the normalised copies. Exactly one has the presence `KEY`.
    """

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
        source: the path of the field it is made from; None for a column that Biocloud adds.
        takes: `value` of the field, the `index` of the list's element (from 0), or the `size` of the list.
    """

    name: str
    type: Scalar | Struct
    description: str
    source: str | None = None
    takes: Literal["value", "index", "size"] = "value"


RESCUED = Column(RESCUED_COLUMN, "string", "Fields of this row that the contract doesn't know: a JSON object, or null")
DELIVERY = Column(DELIVERY_COLUMN, "string", "The delivery's datetime as written, UTC: the partition")


@dataclass(frozen=True)
class Table:
    """A Delta table of the raw layer.

    Attributes:
        name: the last part of its address, `raw/<source>/<name>`.
        folder: the folder of the delivery that it is made from; None for the delivery log.
        row: what one row stands for.
        columns: its columns, in order.
        key: the columns that identify a row within one delivery.
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


def copied(folder: Folder) -> Table:
    """A table with the columns of a folder, structs included, one row per record.

    Args:
        folder: a folder without lists.
    """
    columns = []
    for field in folder.fields:
        assert not isinstance(field.type, ListOf), field  # a folder with lists is un-nested
        columns.append(Column(field.name, field.type, field.description, field.name))
    row = f"one {folder.name.replace('_', ' ')}"
    return Table(folder.name, folder.name, row, (*columns, RESCUED, DELIVERY), (folder.key,))


@dataclass(frozen=True)
class Contract:
    """What a source delivers, and the tables that are made from it.

    A delivery lies at `<landing root>/<source>/<yyyy-mm-dd-HH:MM:SS>/<folder>/*.parquet`, the datetime in UTC.

    Attributes:
        source: the name of the source, in addresses and paths: `dsi`.
        owner: the team that delivers, as Dagster writes an owner: `team:dsi`.
        description: one sentence about the source.
        version: the version of the contract, written into the delivery log.
        folders: the folders of a delivery, those that others refer to first.
        tables: the tables, each made from one folder. A folder has exactly one table without levels.
    """

    source: str
    owner: str
    description: str
    version: int
    folders: tuple[Folder, ...]
    tables: tuple[Table, ...]

    def folder(self, name: str) -> Folder:
        """The folder of that name.

        Args:
            name: the name of a folder, `sensor`.

        Raises:
            StopIteration: the contract has no such folder.
        """
        return next(item for item in self.folders if item.name == name)

    def table(self, name: str) -> Table:
        """The table of that name, or the delivery log.

        Args:
            name: the last part of the table's address, `sensor`; `delivery` for the log.

        Raises:
            StopIteration: the contract has no such table.
        """
        return next(item for item in (*self.tables, self.log) if item.name == name)

    def tables_of(self, folder: str) -> tuple[Table, ...]:
        """The tables that are made from a folder."""
        return tuple(table for table in self.tables if table.folder == folder)

    def record_table(self, folder: str) -> Table:
        """The table with one row per record of a folder; references lead to its key."""
        return next(table for table in self.tables_of(folder) if not table.levels)

    def landing_address(self, folder: str) -> str:
        """The address of a folder as an asset: `landing/dsi/sensor`."""
        return f"landing/{self.source}/{folder}"

    def address(self, table: Table) -> str:
        """The address of a table, which is its path in the lake and its asset key: `raw/dsi/sensor`."""
        return f"raw/{self.source}/{table.name}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of all folders, tables and the delivery log, in the order in which a delivery makes them."""
        return (
            *(self.landing_address(folder.name) for folder in self.folders),
            *(self.address(table) for table in (*self.tables, self.log)),
        )

    @cached_property
    def log(self) -> Table:
        """The delivery log: a delivery is ingested if and only if it has a row here."""
        rows = Struct(tuple(Field(table.name, "long", f"Rows of {table.name}") for table in self.tables))
        return Table(
            "delivery",
            None,
            "one ingested delivery",
            (
                Column("contract_version", "int", "Version of the contract under which it was ingested"),
                # A struct, because the engines don't agree on how a map is stored in Parquet.
                Column("rows", rows, "Rows per table"),
                Column("engine", "string", "What ran the Spark code: sail, jvm, databricks"),
                Column("orchestrator", "string", "What started the run: dagster, airflow, a script"),
                Column("run_id", "string", "The orchestrator's identifier of the run"),
                Column("ingested_at", "timestamp", "When all tables held the delivery, UTC"),
                Column("source_files", "int", "Number of Parquet files in the delivery"),
                Column("source_bytes", "long", "Their total size, bytes"),
                Column("source_fingerprint", "string", "Digest of their names, sizes and entity tags or times"),
                Column("code_version", "string", "Version of biocloud-assets that ingested it"),
                Column("code_commit", "string", "Git commit of that code; null where it isn't known"),
                Column(DELIVERY_COLUMN, "string", "The delivery's datetime as written, UTC: the key and the partition"),
            ),
            (DELIVERY_COLUMN,),
        )


def walk(fields: tuple[Field, ...], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every field with its path, outer ones first.

    Args:
        fields: the fields of a folder or a structure.
        prefix: what the paths begin with: the path of the structure and a dot.

    Yields:
        pairs of a path, `region_groups[].regions[].box.x1`, and the field. A list has no element of its own: its path
        is without `[]`, those of its fields are with it.
    """
    for field in fields:
        path = f"{prefix}{field.name}"
        yield path, field
        if isinstance(field.type, Struct):
            yield from walk(field.type.fields, f"{path}.")
        elif isinstance(field.type, ListOf):
            yield from walk(field.type.element.fields, f"{path}[].")


def list_element(folder: Folder, level: str) -> Struct:
    """The structure of a list's elements.

    Args:
        folder: the folder.
        level: the path of the list with `[]`, `region_groups[].regions[]`.
    """
    type_ = dict(walk(folder.fields))[level.removesuffix("[]")].type
    assert isinstance(type_, ListOf), level
    return type_.element


def spark_schema(of: Table) -> StructType:
    """The schema of a table for Spark, with its columns in order. Everything is nullable, as in the files.

    Args:
        of: the table.
    """
    from pyspark.sql.types import StructField, StructType

    return StructType([StructField(item.name, spark_type(item.type)) for item in of.columns])


def spark_read_schema(of: Folder, paths: Collection[str], *, rescued: bool) -> StructType:
    """The schema with which an engine reads some fields of a folder's files, and doesn't decode the others.

    Engines that are asked for the length of a list decode all its fields; with this schema they decode one of them.

    Args:
        of: the folder.
        paths: the fields. A list is enough for its length, and a structure stands for all that is in it.
        rescued: whether the files are normalised copies; their `_rescued` columns are read too.
    """
    from pyspark.sql.types import StringType, StructField, StructType

    schema = StructType(
        [StructField(field.name, spark_type(field.type, rescued=rescued)) for field in _only(of.fields, paths)]
    )
    return schema.add(RESCUED_COLUMN, StringType()) if rescued else schema


def _only(fields: tuple[Field, ...], paths: Collection[str], prefix: str = "") -> tuple[Field, ...]:
    """The fields that are among some paths or lead to one of them."""
    kept = []
    for field in fields:
        path = f"{prefix}{field.name}"
        if isinstance(field.type, Struct) and path not in paths:
            if inner := _only(field.type.fields, paths, f"{path}."):
                kept.append(replace(field, type=Struct(inner)))
        elif isinstance(field.type, ListOf):
            elements = field.type.element.fields
            inner = _only(elements, paths, f"{path}[].")
            if path in paths or inner:
                kept.append(replace(field, type=ListOf(Struct(inner or elements[:1]))))
        elif path in paths:
            kept.append(field)
    return tuple(kept)


def spark_type(type_: Scalar | Struct | ListOf, *, rescued: bool = False) -> DataType:
    """A type of the contract as one of Spark's.

    Args:
        type_: the type; a `timestamp` becomes `TimestampType`, in the session's time zone, which is UTC.
        rescued: add a `_rescued`, a string, to every structure that is an element of a list.
    """
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


def arrow_type(type_: Scalar | Struct | ListOf, *, rescued: bool = False) -> pa.DataType:
    """A type of the contract as one of Arrow's.

    Args:
        type_: the type; a `timestamp` becomes `timestamp[us, tz=UTC]`.
        rescued: add a `_rescued`, a string, to every structure that is an element of a list.
    """
    import pyarrow as pa

    if isinstance(type_, Struct):
        return pa.struct([(field.name, arrow_type(field.type, rescued=rescued)) for field in type_.fields])
    if isinstance(type_, ListOf):
        element = arrow_type(type_.element, rescued=rescued)
        if rescued:
            element = pa.struct([*element, pa.field(RESCUED_COLUMN, pa.string())])
        return pa.list_(element)
    scalars: dict[Scalar, pa.DataType] = {
        "string": pa.string(),
        "int": pa.int32(),
        "long": pa.int64(),
        "double": pa.float64(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    return scalars[type_]


def arrow_schema(of: Folder, *, rescued: bool = False) -> pa.Schema:
    """The schema of a folder's files for Arrow.

    Args:
        of: the folder.
        rescued: that of a normalised copy: with a `_rescued` column, and one in every structure of a list.
    """
    import pyarrow as pa

    fields = [pa.field(field.name, arrow_type(field.type, rescued=rescued)) for field in of.fields]
    return pa.schema([*fields, pa.field(RESCUED_COLUMN, pa.string())] if rescued else fields)


def type_name(type_: Scalar | Struct | ListOf) -> str:
    """A type as people read it: `struct<latitude: double, …>`, `list<struct<…>>`.

    Args:
        type_: the type.
    """
    if isinstance(type_, Struct):
        return "struct<" + ", ".join(f"{field.name}: {type_name(field.type)}" for field in type_.fields) + ">"
    if isinstance(type_, ListOf):
        return f"list<{type_name(type_.element)}>"
    return type_


def column_lineage(of: Table) -> dict[str, list[str]]:
    """The top-level columns of the folder that each column of a table is made from.

    `_rescued` comes from the columns that the contract doesn't know and `_delivery` from the path, so neither is named.

    Args:
        of: the table.

    Returns:
        for each column that is made from the delivery, the names of the folder's columns.
    """
    return {
        item.name: [item.source.partition("[]")[0].partition(".")[0]] for item in of.columns if item.source is not None
    }
