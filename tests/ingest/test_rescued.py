"""What the contract doesn't know is kept, whatever its type, as JSON in the row that it belongs to."""

from __future__ import annotations

import copy
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from biocloud_assets.ingest.delivery import list_delivery
from biocloud_assets.ingest.reader import read_delivery
from biocloud_assets.ingest.violations import Inspection, ViolationKind
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from tests.ingest.deliveries import DELIVERY, edit, record, table, write
from tests.ingest.oracle import Record, expected_rows

FILE = "part-0.parquet"


def inspected(root: Path) -> Inspection:
    landing, staging = DataLake.at(str(root)), DataLake.at(str(root / "staging"))
    return read_delivery(landing, CONTRACT, list_delivery(landing, CONTRACT, DELIVERY), staging=staging)


def copied(root: Path, folder: str, of: pa.Table, **options: Any) -> list[Record]:
    """Write a table as the only file of a folder, and return the rows of its copy, `_rescued` parsed."""
    delivery = write(root, DELIVERY)
    pq.write_table(of, delivery / folder / FILE, **options)
    inspection = inspected(root)
    assert not inspection.errors, [str(error) for error in inspection.errors]
    (source,) = inspection.sources[folder]
    assert source.rescued
    return [parsed(row) for row in pq.read_table(source.uri).to_pylist()]


def parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: json.loads(part) if name == "_rescued" and part is not None else parsed(part)
            for name, part in value.items()
        }
    return [parsed(part) for part in value] if isinstance(value, list) else value


def results() -> pa.Table:
    """Results with null, empty and longer lists at every level, and null structures."""
    plain = record(RESULT)
    (medium,), (group,), (prediction,) = plain["media"], plain["region_groups"], plain["predictions"]
    (region,), (item,) = group["regions"], prediction["taxa"]["items"]
    none = {"region_group_id": None, "taxa": {"type": None, "items": []}}
    rows = [
        plain,
        record(
            RESULT,
            id="r2",
            media=[medium, medium | {"id": "m2"}],
            region_groups=[group | {"regions": []}, group | {"regions": [region] * 3}, group | {"regions": None}],
            predictions=[
                none,
                prediction | {"taxa": {"type": "multilabel", "items": [item] * 3}},
                {"region_group_id": "g", "taxa": None},
                prediction | {"taxa": {"type": None, "items": None}},
            ],
        ),
        record(RESULT, id="r3", media=None, region_groups=None, predictions=None, generated_by=None),
        record(RESULT, id="r4", media=[], region_groups=[], predictions=[]),
        record(RESULT, id="r5", region_groups=[group | {"regions": [region | {"box": None}]}]),
    ]
    return table(RESULT, copy.deepcopy(rows))


LEVELS = {
    "": "created_at",
    "generated_by": "generated_by.tag",
    "media[]": "media[].id",
    "region_groups[]": "region_groups[].id",
    "region_groups[].regions[]": "region_groups[].regions[].media_id",
    "region_groups[].regions[].box": "region_groups[].regions[].box.x1",
    "predictions[]": "predictions[].region_group_id",
    "predictions[].taxa": "predictions[].taxa.type",
    "predictions[].taxa.items[]": "predictions[].taxa.items[].probability",
}
"""The levels of a result, each with a field of it."""


def numbered(of: pa.Table, level: str, name: str = "unknown") -> pa.Table:
    """A table with an unknown field at a level, which is null in every third structure."""
    make = lambda count: pa.array([None if n % 3 == 1 else n for n in range(count)], pa.int32())  # noqa: E731
    return edit(of, LEVELS[level], lambda known, array: [(known, array), (name, make(len(array)))])


# Where it is kept.


@pytest.mark.parametrize("level", LEVELS)
def test_an_unknown_field_is_kept_in_the_row_that_it_belongs_to(tmp_path: Path, level: str) -> None:
    of = numbered(results(), level)
    assert copied(tmp_path, RESULT, of) == expected_rows(RESULT, of)


def test_unknown_fields_at_all_levels_are_kept(tmp_path: Path) -> None:
    of = results()
    for level in LEVELS:
        of = numbered(numbered(of, level), level, 'a "quoted" näme')
    rows = copied(tmp_path, RESULT, of)
    assert rows == expected_rows(RESULT, of)
    assert str(rows).count("unknown") > 30


def test_what_is_rescued_of_a_prediction_is_kept_by_its_taxa_or_by_itself_if_it_has_none(tmp_path: Path) -> None:
    item = {"scientific_name": "A", "scientific_name_id": "1", "probability": 0.5}
    rows = [
        {"region_group_id": "g", "taxa": {"type": "t", "items": [item, item]}},
        {"region_group_id": "g", "taxa": {"type": "t", "items": []}},
        {"region_group_id": "g", "taxa": None},
    ]
    of = table(RESULT, [record(RESULT, predictions=rows)])
    for level in ("predictions[]", "predictions[].taxa", "predictions[].taxa.items[]"):
        of = edit(of, LEVELS[level], lambda n, a: [(n, a), ("u", pa.array(range(10, 10 + len(a))))])
    first, second, third = copied(tmp_path, RESULT, of)[0]["predictions"]
    assert [item["_rescued"] for item in first["taxa"]["items"]] == [
        {"u": 10, "taxa": {"u": 10, "items": {"u": 10}}},
        {"u": 10, "taxa": {"u": 10, "items": {"u": 11}}},
    ]
    assert first["_rescued"] is None
    assert second["_rescued"] == {"u": 11, "taxa": {"u": 11}}
    assert third["_rescued"] == {"u": 12}


def test_an_unknown_field_that_is_null_everywhere_leaves_nothing_but_a_warning(tmp_path: Path) -> None:
    of = table("sensor").append_column("later", pa.nulls(1))
    assert copied(tmp_path, "sensor", of)[0]["_rescued"] is None
    assert [violation.kind for violation in inspected(tmp_path).violations] == [ViolationKind.UNKNOWN_COLUMN]


# How it is written.

TIME = datetime(2026, 1, 31, 6, 0, 0, 500_000, UTC)

WRITTEN: list[tuple[pa.DataType, Any, str]] = [
    (pa.bool_(), True, "true"),
    (pa.int64(), -(2**63), "-9223372036854775808"),
    (pa.uint64(), 2**64 - 1, "18446744073709551615"),
    (pa.float64(), 0.1, "0.1"),
    (pa.float64(), 100.0, "100.0"),
    (pa.float64(), -0.0, "-0.0"),
    (pa.float64(), 1e300, "1e+300"),
    (pa.float64(), float("nan"), '"NaN"'),
    (pa.float32(), float("-inf"), '"-Infinity"'),
    (pa.float32(), 0.10000000149011612, "0.10000000149011612"),
    (pa.float16(), 1.5, "1.5"),
    (pa.decimal128(30, 4), Decimal("12345678901234567890123456.7890"), '"12345678901234567890123456.7890"'),
    (pa.decimal128(20, 10), Decimal("-0.0000000100"), '"-0.0000000100"'),
    (pa.decimal256(60, 2), Decimal(10) ** 50, f'"1{"0" * 50}.00"'),
    (pa.string(), 'é\n"\\\x00\u2028 🦊', '"é\\n\\"\\\\\\u0000\u2028 🦊"'),
    (pa.large_string(), "", '""'),
    (pa.binary(), b"\x00\xff", '"AP8="'),
    (pa.binary(2), b"\x00\xff", '"AP8="'),
    (pa.date32(), date(1, 1, 1), '"0001-01-01"'),
    (pa.date64(), date(9999, 12, 31), '"9999-12-31"'),
    (pa.timestamp("us", "UTC"), TIME, '"2026-01-31T06:00:00.5Z"'),
    (pa.timestamp("us"), TIME.replace(tzinfo=None), '"2026-01-31T06:00:00.5Z"'),
    (pa.timestamp("ms", "Europe/Amsterdam"), TIME, '"2026-01-31T06:00:00.5Z"'),
    (pa.timestamp("ns", "Nowhere/Land"), 1, '"1970-01-01T00:00:00.000000001Z"'),
    (pa.timestamp("s"), 253_402_300_800, '"+10000-01-01T00:00:00Z"'),
    (pa.time64("us"), time(23, 59, 59, 500_000), '"23:59:59.5"'),
    (pa.time32("s"), time(0), '"00:00:00"'),
    (pa.duration("ms"), timedelta(seconds=-1, milliseconds=-500), '"PT-1.5S"'),
    (pa.duration("ns"), 10**9 * 100, '"PT100S"'),
    (pa.struct([("a", pa.int32()), ("b", pa.string())]), {"a": None, "b": "x"}, '{"b":"x"}'),
    (pa.struct([("a", pa.int32())]), {"a": None}, "{}"),
    (pa.struct([("", pa.int32())]), {"": 1}, '{"":1}'),
    (pa.list_(pa.int32()), [1, None], "[1,null]"),
    (pa.list_(pa.int32()), [], "[]"),
    (pa.large_list(pa.list_(pa.string())), [["a"], None, []], '[["a"],null,[]]'),
    (pa.list_(pa.float32(), 2), [1, 2], "[1.0,2.0]"),
    (pa.list_view(pa.int8()), [1, 2], "[1,2]"),
    (pa.map_(pa.string(), pa.int32()), [("k", 1), ("l", None)], '{"k":1,"l":null}'),
    (pa.map_(pa.int32(), pa.string()), [(1, "a")], '{"1":"a"}'),
    (pa.map_(pa.string(), pa.int32()), [("k", 1), ("k", 2)], '[{"key":"k","value":1},{"key":"k","value":2}]'),
    (pa.map_(pa.list_(pa.int8()), pa.int8()), [([1], 2)], '[{"key":[1],"value":2}]'),
    (pa.map_(pa.string(), pa.int32()), [], "{}"),
    (pa.dictionary(pa.int8(), pa.int64()), 5, "5"),
    (pa.dictionary(pa.int32(), pa.string()), "x", '"x"'),
    (pa.uuid(), b"0123456789abcdef", '"MDEyMzQ1Njc4OWFiY2RlZg=="'),
    (pa.json_(), '{"a": 1}', '"{\\"a\\": 1}"'),
]


@pytest.mark.parametrize(("type_", "value", "text"), WRITTEN, ids=lambda part: str(part)[:30])
@pytest.mark.parametrize("store_schema", [True, False])
def test_every_type_has_its_form_in_json(
    tmp_path: Path, type_: pa.DataType, value: Any, text: str, store_schema: bool
) -> None:
    storage = pa.string() if type_ == pa.json_() else type_
    values = pa.array([None, value], storage) if storage is type_ else pa.array([None, value], storage).cast(type_)
    of = table("sensor", [record("sensor"), record("sensor", id="s2")]).append_column("new", values)
    delivery = write(tmp_path, DELIVERY)
    pq.write_table(of, delivery / "sensor" / FILE, store_schema=store_schema)
    inspection = inspected(tmp_path)
    assert inspection.errors == ()
    rescued = pq.read_table(inspection.sources["sensor"][0].uri)["_rescued"].to_pylist()
    if not store_schema and pa.types.is_duration(type_):
        assert isinstance(json.loads(rescued[1])["new"], int), "without Arrow's schema, a duration is a number"
    else:
        assert rescued == [None, f'{{"new":{text}}}']


# Any type, any value.

_NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=6)

_SCALARS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint32(), st.integers(0, 2**32 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.decimal128(9, 3), st.decimals(-999_999, 999_999, places=3)),
    (pa.decimal256(50, 20), st.decimals(-(10**20), 10**20, places=20)),
    (pa.string(), st.text()),
    (pa.large_string(), st.text()),
    (pa.string_view(), st.text()),
    (pa.binary(), st.binary()),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.binary_view(), st.binary()),
    (pa.date32(), st.integers(-(10**7), 10**7)),
    (pa.date64(), st.integers(-(10**5), 10**5).map(lambda days: days * 86_400_000)),
    (pa.timestamp("s", "UTC"), st.integers(-(10**11), 10**12)),
    (pa.timestamp("ms"), st.integers(-(10**14), 10**15)),
    (pa.timestamp("us", "+02:00"), st.integers(-(10**17), 10**18)),
    (pa.timestamp("ns", "Europe/Amsterdam"), st.integers(-(2**63) + 1, 2**63 - 1)),
    (pa.time32("ms"), st.integers(0, 86_399_999)),
    (pa.time64("ns"), st.integers(0, 86_399_999_999_999)),
    (pa.duration("s"), st.integers(-(10**15), 10**15)),
    (pa.duration("ns"), st.integers(-(2**63) + 1, 2**63 - 1)),
    (pa.null(), st.none()),
]

_Typed = tuple[pa.DataType, st.SearchStrategy[Any]]


def _nested(inner: st.SearchStrategy[_Typed]) -> st.SearchStrategy[_Typed]:
    def struct(fields: dict[str, _Typed]) -> _Typed:
        values = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in fields.items()})
        return pa.struct([(name, type_) for name, (type_, _) in fields.items()]), values

    def several(element: _Typed) -> st.SearchStrategy[_Typed]:
        type_, values = element
        values = st.lists(st.none() | values, max_size=3)
        return st.sampled_from([(pa.list_(type_), values), (pa.large_list(type_), values)])

    def mapping(pair: tuple[_Typed, _Typed]) -> _Typed:
        (key, keys), (item, items) = pair
        return pa.map_(key, item), st.lists(st.tuples(keys, st.none() | items), max_size=3)

    # Python and Arrow write a float in different ways, which as a key is text.
    keys = inner.filter(lambda typed: not pa.types.is_null(typed[0]) and not pa.types.is_floating(typed[0]))
    return (
        st.dictionaries(_NAMES, inner, min_size=1, max_size=3).map(struct)
        | inner.flatmap(several)
        | st.tuples(keys, inner).map(mapping)
        | inner.map(lambda typed: (pa.list_(typed[0], 2), st.lists(st.none() | typed[1], min_size=2, max_size=2)))
    )


TYPED: st.SearchStrategy[_Typed] = st.recursive(st.sampled_from(_SCALARS), _nested, max_leaves=5)
"""A type that Parquet can hold, and what to draw its values from."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(st.data())
def test_whatever_pyarrow_can_write_is_kept_or_refused_by_file_and_column(tmp_path: Path, data: st.DataObject) -> None:
    type_, values = data.draw(TYPED)
    level = data.draw(st.sampled_from(list(LEVELS)))
    name = data.draw(_NAMES.filter(lambda name: name not in {field.rpartition(".")[2] for field in _KNOWN}))

    def beside(known: str, array: pa.Array) -> list[tuple[str, pa.Array]]:
        drawn = data.draw(st.lists(st.none() | values, min_size=len(array), max_size=len(array)))
        return [(known, array), (name, pa.array(drawn, type_))]

    of = edit(results(), LEVELS[level], beside)
    delivery = write(tmp_path, DELIVERY)
    options = {"store_schema": data.draw(st.booleans()), "row_group_size": data.draw(st.sampled_from([1, 2, 100]))}
    try:
        pq.write_table(of, delivery / RESULT / FILE, **options)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # pyarrow can't write it
        reject()
    inspection = inspected(tmp_path)
    for error in inspection.errors:
        assert (error.folder, error.file) == (RESULT, FILE)
        assert error.column is not None
    if not inspection.errors:
        written = pq.read_table(delivery / RESULT / FILE)  # a date64 and others come back as another type
        (source,) = inspection.sources[RESULT]
        assert [parsed(row) for row in pq.read_table(source.uri).to_pylist()] == expected_rows(RESULT, written)
        warned = [(w.kind, w.folder, w.file) for w in inspection.warnings]
        assert warned == [(ViolationKind.UNKNOWN_COLUMN, RESULT, FILE)]


_KNOWN = list(LEVELS.values()) + [field.name for field in CONTRACT.folder(RESULT).fields]
