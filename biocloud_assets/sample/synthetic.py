"""Synthetic deliveries of any size, with edge cases: null and empty lists at every level, and unusual values.

They are valid: the contract accepts them without a violation. They contain results without media, several regions in a
group, parts of images (a box) and of audio (a start and an end), one taxon and several, null structures, JSON, and
names in many scripts. From 50 results on, all of these occur; with fewer, as many as fit.

All values are drawn from `seed`: the same seed gives the same bytes (with the same versions of NumPy and Arrow). Whole
columns are drawn at once, one file at a time, so memory is bounded by the size of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from biocloud_assets.errors import BiocloudError
from biocloud_assets.lake import DataLake
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.sample import landing_path, parquet
from biocloud_assets.schema import arrow_schema

RESULTS_PER_FILE = 50_000
"""Even, for two results share an analysis group and a group is never split."""

SCIENTIFIC_NAMES = (
    "Vulpes vulpes",
    "Bubo bubo",
    "Martes foina",
    "Rattus norvegicus",
    "Anas platyrhynchos",
    "Passer domesticus",
    "Turdus merula",
    "Capreolus capreolus",
    "Sus scrofa",
    "Erinaceus europaeus",
    "Myotis daubentonii",
    "Pipistrellus pipistrellus",
    "Tettigonia viridissima",
    "Coccinella septempunctata",
    "Bombus (Pyrobombus) hypnorum",
    "Aves",
    "Mentha × piperita",  # the hybrid sign, which is no letter x
    "Isoëtes echinospora",  # a diacritic, composed
    "Isoe\u0308tes lacustris",  # the same one, combining
    "Saxifraga ×geum Łąkowa",
    "大熊猫",
    "ニホンジカ",
    "ثعلب أحمر",  # from right to left
    "שועל מצוי",
    "🦊 sp.",  # outside the Basic Multilingual Plane
    "👩🏽‍🔬 sp.",  # several code points that make one character
    "Rosa 'Queen \"Élise\"' \\ hort.",  # quotes and a backslash
    "?",
)
PARAMETERS = (
    "{}",
    '{"threshold": 0.5}',
    '{"threshold": 0.25, "top": 5, "labels": ["fox", "renard", "狐"]}',
    '{"crop": {"x": [0, 1], "y": null}, "note": "a \\"quoted\\" path C:\\\\models"}',
    '{"grid": [[1, 2], []], "emoji": "🦊", "on": true}',
)
PREFIXES = ("IMG_", "RCNX", "SM4-", "Überwachung ", "照片_", "صورة_", "🦊_")
SITES = ("Hoge Veluwe", "Mol – ’t Zilvermeer", "Ærøskøbing", "Þingvellir", "黄山", "الواحة", "Parc des Écrins 🏔")

_DAY = 86_400_000_000  # microseconds
_FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)  # after the bundled deliveries
_ALGORITHM, _SENSOR, _DEPLOYMENT, _MEDIA, _RESULT = range(1, 6)  # from 1: NumPy takes a seed's trailing 0 for none

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Common:
    """What the files of one delivery share: the rows that others refer to.

    Attributes:
        seed: the seed of all deliveries, and the number of this one.
        moment: the delivery's datetime, microseconds since 1970.
        algorithms, sensors, deployments: their identifiers.
        audio: whether a deployment is one of an audio recorder.
        start, end: of a deployment, microseconds since 1970.
    """

    seed: tuple[int, int]
    moment: int
    algorithms: pa.StringArray
    sensors: pa.StringArray
    deployments: pa.StringArray
    audio: Bools
    start: Ints
    end: Ints

    def rng(self, stage: int, part: int = 0) -> np.random.Generator:
        """The random generator of a folder and file."""
        return np.random.default_rng((*self.seed, stage, part))


@dataclass(frozen=True)
class _Groups:
    """The analysis groups of one file of results, which media items and results have in common.

    Attributes:
        ids: the groups' identifiers.
        deployment: the index of each group's deployment.
        media_count: the number of each group's media.
        media_ids, filenames: of all their media, group by group.
    """

    ids: pa.StringArray
    deployment: Ints
    media_count: Ints
    media_ids: pa.StringArray
    filenames: pa.StringArray


def write(
    landing: DataLake,
    *,
    results: int,
    seed: int,
    deliveries: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Write synthetic deliveries; existing ones of the same arguments are overwritten with the same bytes.

    The deliveries are a day apart, each at the seed's second of the day, from 2024 on. None refers to another one.

    Args:
        landing: the lake that holds `dsi/<delivery>/`.
        results: the number of results in each delivery, 0 or more.
        seed: 0 or more; up to 60 million, another seed gives other names.
        deliveries: how many, 1 or more.
        on_progress: called with the number of results written since the last call.

    Returns:
        The deliveries' names, in order.

    Raises:
        BiocloudError: an argument is out of range.
        LakeError: the landing lake can't be written.
    """
    _check("results", results, 0)
    _check("seed", seed, 0)
    _check("deliveries", deliveries, 1)
    names = []
    for index in range(deliveries):
        # Within two years, so that no delivery is far in the future.
        moment = _FIRST_DAY + timedelta(days=index + seed // 86_400 % 730, seconds=seed % 86_400)
        names.append(f"{moment:%Y-%m-%d-%H:%M:%S}")
        common = _common((seed, index), moment, results)
        for folder, part, table in _tables(common, results):
            landing.write(landing_path(names[-1], folder, part), parquet(table))
            if folder == RESULT and on_progress:
                on_progress(table.num_rows)
    return names


def _check(argument: str, value: int, least: int) -> None:
    if value < least:
        raise BiocloudError(
            f"{argument} of a synthetic delivery",
            expected=f"{least} or more",
            found=str(value),
            hint="Give a number in that range.",
        )


def _tables(common: _Common, results: int) -> Iterator[tuple[str, int, pa.Table]]:
    """All files of a delivery: the folder, the number of the file and its table; the results last."""
    yield "algorithm", 0, _algorithms(common)
    yield "sensor", 0, _sensors(common)
    yield "sensor_deployment", 0, _deployments(common)
    # An empty delivery has files too.
    counts = [min(RESULTS_PER_FILE, results - start) for start in range(0, results, RESULTS_PER_FILE)] or [0]
    for part, count in enumerate(counts):
        yield "sensor_media_item", part, _media_items(common, _groups(common, part, count), part)
    for part, count in enumerate(counts):
        yield RESULT, part, _results(common, _groups(common, part, count), part, count)


def _common(seed: tuple[int, int], moment: datetime, results: int) -> _Common:
    rng = np.random.default_rng(seed)
    sensors, deployments = 6 + results // 2_000, 9 + results // 1_000
    now = int(moment.timestamp()) * 1_000_000
    start = now - rng.integers(40, 300, deployments) * _DAY
    return _Common(
        seed,
        now,
        _uuids(rng, 4 + min(results // 20_000, 40)),
        _uuids(rng, sensors),
        _uuids(rng, deployments),
        np.arange(deployments) % sensors % 3 == 2,  # every third sensor records audio
        start,
        start + rng.integers(1, 30, deployments) * _DAY,
    )


def _algorithms(common: _Common) -> pa.Table:
    rng, count = common.rng(_ALGORITHM), len(common.algorithms)
    index = np.arange(count)
    created = common.moment - rng.integers(400 * _DAY, 800 * _DAY, count)
    schema = arrow_schema(CONTRACT.folder("algorithm"))
    return _table(
        schema,
        id=common.algorithms,
        name=_of(("Waarneming model", "BirdNET-like", "Sauterelle 🦗", "物种识别"), index),
        version=_join(index, ".0", null=_some(rng, count)),
        tag=_of(("stable", "canary"), index, null=_some(rng, count)),
        description=_of(("Recognises species\nand “nothing”",), index * 0, null=_some(rng, count)),
        media_type=_of(("image", "audio"), index),
        taxonomy=_struct(
            schema.field("taxonomy").type,
            _some(rng, count),
            namespace=_of(("Catalogue of Life", "NSR"), index),
            version=_of(("2023", "2024"), index, null=_some(rng, count)),
        ),
        created_at=_time(created),
        updated_at=_time(created + _DAY, null=_some(rng, count)),
    )


def _sensors(common: _Common) -> pa.Table:
    rng, count = common.rng(_SENSOR), len(common.sensors)
    index = np.arange(count)
    audio = (index % 3 == 2).astype(np.int64)
    created = common.moment - rng.integers(400 * _DAY, 800 * _DAY, count)
    schema = arrow_schema(CONTRACT.folder("sensor"))
    return _table(
        schema,
        id=common.sensors,
        name=_join("Sensor № ", index, null=_some(rng, count)),
        type=_of(("camera", "audio_recorder"), audio),
        model=_of(("Reconyx-HF2X", "Song Meter Mini"), audio, null=_some(rng, count)),
        serial_number=_join(rng.integers(10_000, 99_999, count), null=_some(rng, count)),
        owner=_struct(
            schema.field("owner").type,
            _some(rng, count),
            id=_join("owner-", index % 5),
            name=_of(("Naturalis", "Zoë Çelik", "李雷"), index, null=_some(rng, count)),
        ),
        created_at=_time(created),
        updated_at=_time(created + _DAY, null=_some(rng, count)),
    )


def _deployments(common: _Common) -> pa.Table:
    rng, count = common.rng(_DEPLOYMENT), len(common.deployments)
    index = np.arange(count)
    schema = arrow_schema(CONTRACT.folder("sensor_deployment"))
    return _table(
        schema,
        id=common.deployments,
        sensor_id=common.sensors.take(pa.array(index % len(common.sensors))),
        name=_of(SITES, index, null=_some(rng, count)),
        location=_struct(
            schema.field("location").type,
            _some(rng, count),
            latitude=_double(rng.uniform(50, 54, count)),
            longitude=_double(rng.uniform(3, 8, count)),
            coordinate_uncertainty_m=_double(rng.uniform(1, 500, count), null=_some(rng, count)),
            elevation_m=_double(rng.uniform(-6, 320, count), null=_some(rng, count)),
        ),
        project=_struct(
            schema.field("project").type,
            _some(rng, count),
            id=_join("project-", index % 3),
            name=_of(("MICA", "ARISE", "Biodiversité — Ærø"), index, null=_some(rng, count)),
        ),
        habitat=_of(("dune heath", "brook\tvalley", "Moorwald"), index, null=_some(rng, count)),
        start_at=_time(common.start),
        end_at=_time(common.end, null=_some(rng, count)),
        created_at=_time(common.start, null=_some(rng, count)),
        updated_at=_time(common.end, null=_some(rng, count)),
    )


def _groups(common: _Common, part: int, results: int) -> _Groups:
    """The analysis groups of one file of results: one for each two of them."""
    rng = common.rng(_MEDIA, 2 * part)
    count = (results + 1) // 2
    deployment = rng.integers(0, len(common.deployments), count)
    media_count = rng.integers(1, 4, count)
    total = int(media_count.sum())
    audio = common.audio[deployment[_owner(media_count)]].astype(np.int64)
    return _Groups(
        _uuids(rng, count),
        deployment,
        media_count,
        _uuids(rng, total),
        _join(
            _of(PREFIXES, rng.integers(0, len(PREFIXES), total)),
            np.arange(total) + 100_000,
            _of((".JPG", ".wav"), audio),
        ),
    )


def _media_items(common: _Common, groups: _Groups, part: int) -> pa.Table:
    rng, count = common.rng(_MEDIA, 2 * part + 1), len(groups.media_ids)
    deployment = groups.deployment[_owner(groups.media_count)]
    audio = common.audio[deployment]
    spread = rng.random(count) * (common.end - common.start)[deployment]
    captured = (common.start[deployment] + spread.astype(np.int64)) // 1_000_000 * 1_000_000
    schema = arrow_schema(CONTRACT.folder("sensor_media_item"))
    kind = audio.astype(np.int64)
    return _table(
        schema,
        id=groups.media_ids,
        sensor_deployment_id=common.deployments.take(pa.array(deployment)),
        captured_at=_time(captured, null=_some(rng, count)),
        media=_struct(
            schema.field("media").type,
            _some(rng, count),
            type=_of(("image", "audio"), kind),
            mime_type=_of(("image/jpeg", "audio/wav"), kind, null=_some(rng, count)),
            filename=groups.filenames,
            uri=_join("https://media.example.org/", groups.media_ids, null=_some(rng, count)),
            size_bytes=pa.array(rng.integers(100_000, 5_000_000_000, count), mask=_some(rng, count)),
            width_px=pa.array(np.full(count, 2048, np.int32), mask=audio),
            height_px=pa.array(np.full(count, 1536, np.int32), mask=audio),
            duration_s=_double(rng.integers(1, 600, count) / 10, null=~audio),
        ),
        created_at=_time(captured, null=_some(rng, count)),
        updated_at=_time(captured, null=_some(rng, count, 0.9)),
    )


def _results(common: _Common, groups: _Groups, part: int, count: int) -> pa.Table:
    rng = common.rng(_RESULT, part)
    group = np.arange(count) // 2  # two algorithms look at the same media
    audio = common.audio[groups.deployment[group]]
    generated = common.moment - rng.integers(0, 9 * _DAY, count)
    schema = arrow_schema(CONTRACT.folder(RESULT))

    # Media: those of the group, or a null or an empty list.
    first_of_group = np.cumsum(groups.media_count) - groups.media_count
    media_count = _gaps(rng, groups.media_count[group])
    media = first_of_group[group][_owner(media_count)] + _index(media_count)
    media_type = schema.field("media").type.value_type
    media_rows = _struct(
        media_type,
        id=groups.media_ids.take(pa.array(media)),
        sensor_media_item_id=_nulled(groups.media_ids.take(pa.array(media)), _some(rng, len(media))),
        filename=_nulled(groups.filenames.take(pa.array(media)), _some(rng, len(media))),
    )

    # Region groups, and the regions in them.
    group_count = _gaps(rng, rng.integers(0, 6, count))
    result_of_group = _owner(group_count)
    total = len(result_of_group)
    group_ids = _nulled(_join("r", _index(group_count)), _some(rng, total, 0.005))
    region_count = _gaps(rng, rng.choice(np.array([1, 2, 3]), total, p=[0.6, 0.35, 0.05]))
    result_of_region = result_of_group[_owner(region_count)]
    region_type = schema.field("region_groups").type.value_type.field("regions").type.value_type
    region_rows = _regions(
        rng,
        region_type,
        groups.media_ids,
        first_of_group[group][result_of_region],
        media_count[result_of_region],
        audio[result_of_region],
    )
    group_rows = _struct(
        schema.field("region_groups").type.value_type,
        id=group_ids,
        individual_id=_nulled(_join("individual ", rng.integers(0, 500, total)), _some(rng, total, 0.8)),
        regions=_list(region_count, region_rows),
    )

    # Predictions: one for each region group, or one for the result as a whole where there are none.
    prediction_count = _gaps(rng, np.maximum(group_count, 1))
    result_of_prediction = _owner(prediction_count)
    start_of_groups = np.cumsum(np.maximum(group_count, 0)) - np.maximum(group_count, 0)
    whole = group_count[result_of_prediction] <= 0
    for_group = np.where(whole, 0, start_of_groups[result_of_prediction] + _index(prediction_count))
    prediction_rows = _struct(
        schema.field("predictions").type.value_type,
        region_group_id=group_ids.take(pa.array(for_group, mask=whole)),
        taxa=_taxa(rng, schema.field("predictions").type.value_type.field("taxa").type, len(whole)),
    )

    return _table(
        schema,
        id=_uuids(rng, count),
        analysis_group_id=_nulled(groups.ids.take(pa.array(group)), _some(rng, count)),
        algorithm_id=common.algorithms.take(pa.array(rng.integers(0, len(common.algorithms), count))),
        sensor_deployment_id=_nulled(
            common.deployments.take(pa.array(groups.deployment[group])),
            _some(rng, count),
        ),
        generated_by=_struct(
            schema.field("generated_by").type,
            _some(rng, count),
            datetime=_time(generated, null=_some(rng, count)),
            tag=_of(("stable", "canary"), rng.integers(0, 2, count), null=_some(rng, count)),
            version=_of(("1.0", "1.1", "2.0-β"), rng.integers(0, 3, count), null=_some(rng, count)),
            parameters=_of(PARAMETERS, rng.integers(0, len(PARAMETERS), count), null=_some(rng, count, 0.1)),
        ),
        media=_list(media_count, media_rows),
        region_groups=_list(group_count, group_rows),
        predictions=_list(prediction_count, prediction_rows),
        created_at=_time(generated, null=_some(rng, count)),
    )


def _regions(
    rng: np.random.Generator,
    type_: pa.StructType,
    media_ids: pa.StringArray,
    first_medium: Ints,
    media_count: Ints,
    audio: Bools,
) -> pa.StructArray:
    """Regions of images (four sides) and of audio (a start and an end), each in one of the result's media.

    Args:
        rng: what to draw from.
        type_: the Arrow type of a region.
        media_ids: identifiers of all media.
        first_medium, media_count: the media of each region's result.
        audio: whether these are audio.
    """
    count = len(audio)
    no_medium = (media_count <= 0) | _some(rng, count)
    medium = first_medium + (rng.random(count) * np.maximum(media_count, 0)).astype(np.int64)
    # As models give them: in single precision.
    x, y = (np.sort(rng.random((2, count), np.float32).astype(np.float64), axis=0) for _ in range(2))
    t = np.sort(rng.integers(0, 6_000, (2, count)) / 100, axis=0)
    return _struct(
        type_,
        media_id=media_ids.take(pa.array(np.where(no_medium, 0, medium), mask=no_medium)),
        box=_struct(
            type_.field("box").type,
            _some(rng, count),
            x1=_double(x[0], null=audio),
            y1=_double(y[0], null=audio),
            x2=_double(x[1], null=audio),
            y2=_double(y[1], null=audio),
            t1=_double(t[0], null=~audio),
            t2=_double(t[1], null=~audio),
        ),
    )


def _taxa(rng: np.random.Generator, type_: pa.StructType, count: int) -> pa.StructArray:
    """The taxa of predictions: one of several (`multiclass`, falling probabilities) or any of them (`multilabel`)."""
    nothing = _some(rng, count)
    several = rng.random(count) < 0.2
    taxon_count = np.full(count, -1)
    taxon_count[~nothing] = _gaps(rng, rng.integers(1, 6, int((~nothing).sum())))
    prediction, position = _owner(taxon_count), _index(taxon_count)
    total = len(position)
    # Neighbours in the list of names, from a place of the prediction's own: none is there twice.
    name = (rng.integers(0, len(SCIENTIFIC_NAMES), count)[prediction] + position) % len(SCIENTIFIC_NAMES)
    sure = rng.random(count)[prediction]
    # The terms of a geometric series fall, and add up to less than 1.
    probability = np.where(several[prediction], rng.random(total), sure * (1 - sure) ** position).astype(np.float32)
    items = _struct(
        type_.field("items").type.value_type,
        scientific_name=_of(SCIENTIFIC_NAMES, name, null=_some(rng, total, 0.005)),
        scientific_name_id=_nulled(_join("synthetic:", name), _some(rng, total)),
        probability=_double(probability.astype(np.float64), null=_some(rng, total)),
    )
    return _struct(
        type_,
        nothing,
        type=_of(("multiclass", "multilabel"), several.astype(np.int64), null=_some(rng, count, 0.01)),
        items=_list(taxon_count, items),
    )


# Drawing.


def _some(rng: np.random.Generator, count: int, share: float = 0.03) -> Bools:
    """True for a share of `count`, and for some at least."""
    chosen = rng.random(count) < share
    chosen[_places(rng, count, 1)] = True
    return chosen


def _places(rng: np.random.Generator, count: int, kinds: int) -> Ints:
    """A few different places below `count` for each of some kinds; several, for one may be in what is null itself."""
    each = min(3, count // 8 + 1)
    return rng.choice(count, min(count, each * kinds), replace=False) if count else np.zeros(0, np.int64)


def _gaps(rng: np.random.Generator, lengths: Ints) -> Ints:
    """Lengths of lists, of which some become null (-1) or empty (0): some of each at least."""
    draw = rng.random(len(lengths))
    lengths = np.where(draw < 0.02, -1, np.where(draw < 0.06, 0, lengths)).astype(np.int64)
    places = _places(rng, len(lengths), 2)
    lengths[places] = -1
    lengths[places[::2]] = 0
    return lengths


_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(256, 2)


def _uuids(rng: np.random.Generator, count: int) -> pa.StringArray:
    """Random UUIDs (version 4) as text."""
    raw = rng.integers(0, 256, (count, 16), np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    text = np.full((count, 36), ord("-"), np.uint8)
    text[:, [*range(8), *range(9, 13), *range(14, 18), *range(19, 23), *range(24, 36)]] = _HEX[raw].reshape(count, 32)
    offsets = np.arange(count + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


# Lists: lengths (-1 for null) and the elements of all lists, one list after the other.


def _owner(lengths: Ints) -> Ints:
    """For each element, the index of its list."""
    return np.repeat(np.arange(len(lengths)), np.maximum(lengths, 0))


def _index(lengths: Ints) -> Ints:
    """For each element, its index in its list."""
    sizes = np.maximum(lengths, 0)
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _list(lengths: Ints, elements: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths, 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array(lengths < 0))


# Columns.


def _table(schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _struct(type_: pa.StructType, null: Bools | None = None, **children: pa.Array) -> pa.StructArray:
    fields = list(type_)
    mask = None if null is None else pa.array(null)
    return pa.StructArray.from_arrays([children[field.name] for field in fields], fields=fields, mask=mask)


def _nulled(values: pa.Array, null: Bools) -> pa.Array:
    return pc.if_else(pa.array(null), pa.scalar(None, values.type), values)


def _of(values: tuple[str, ...], index: Ints, null: Bools | None = None) -> pa.StringArray:
    """Values by index; after the last comes the first again."""
    return pa.array(values).take(pa.array(index % len(values), mask=null))


def _join(*parts: Any, null: Bools | None = None) -> pa.StringArray:
    """Texts of parts: a text for all, an array of texts, or one of numbers."""
    texts = [pa.array(part).cast(pa.string()) if isinstance(part, np.ndarray) else part for part in parts]
    joined = pc.binary_join_element_wise(*texts, "")
    return joined if null is None else _nulled(joined, null)


def _double(values: npt.NDArray[np.float64], null: Bools | None = None) -> pa.DoubleArray:
    return pa.array(values, mask=null)


def _time(values: Ints, null: Bools | None = None) -> pa.TimestampArray:
    return pa.array(values, mask=null).cast(pa.timestamp("us", tz="UTC"))
