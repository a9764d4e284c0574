"""DuckDB and delta-rs, by hand: SQL over the Parquet files, streams of Arrow into Delta tables, two at a time."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb

from benchmarks.contenders.common import Task, require, run, storage_options, write_delta, write_log
from biocloud_assets.ingest.table_checks import range_columns, reference_columns
from biocloud_assets.raw.dsi.contract import CONTRACT, RESULT
from biocloud_assets.schema import DELIVERY_COLUMN, Presence, Table

_BATCH_ROWS = 122_880  # DuckDB's own row groups

_ROWS = {
    RESULT: """
        SELECT id, analysis_group_id, algorithm_id, sensor_deployment_id, generated_by.datetime AS generated_at,
               generated_by.tag AS generated_tag, generated_by.version AS generated_version,
               generated_by.parameters AS generated_parameters, len(media)::INTEGER AS media_count,
               len(region_groups)::INTEGER AS region_group_count, len(predictions)::INTEGER AS prediction_count,
               created_at
        FROM analysis_group_result""",
    f"{RESULT}_media": """
        SELECT result_id, media_index, m.id AS media_id, m.sensor_media_item_id, m.filename
        FROM (SELECT id AS result_id, unnest(range(len(media)))::INTEGER AS media_index, unnest(media) AS m
              FROM analysis_group_result)""",
    f"{RESULT}_region_group": """
        SELECT result_id, region_group_index, g.id AS region_group_id, g.individual_id,
               len(g.regions)::INTEGER AS region_count
        FROM (SELECT id AS result_id, unnest(range(len(region_groups)))::INTEGER AS region_group_index,
                     unnest(region_groups) AS g
              FROM analysis_group_result)""",
    f"{RESULT}_region": """
        SELECT result_id, region_group_index, region_group_id, region_index, r.media_id,
               r.box.x1, r.box.y1, r.box.x2, r.box.y2, r.box.t1, r.box.t2
        FROM (SELECT result_id, region_group_index, g.id AS region_group_id,
                     unnest(range(len(g.regions)))::INTEGER AS region_index, unnest(g.regions) AS r
              FROM (SELECT id AS result_id, unnest(range(len(region_groups)))::INTEGER AS region_group_index,
                           unnest(region_groups) AS g
                    FROM analysis_group_result))""",
    # A prediction without taxa keeps one row.
    f"{RESULT}_prediction": """
        SELECT result_id, prediction_index, region_group_id, taxa_type, taxon_count, taxon_index,
               t.scientific_name, t.scientific_name_id, t.probability
        FROM (SELECT result_id, prediction_index, p.region_group_id, p.taxa.type AS taxa_type,
                     len(p.taxa.items)::INTEGER AS taxon_count,
                     unnest(CASE WHEN len(p.taxa.items) > 0 THEN range(len(p.taxa.items)) ELSE [NULL] END)::INTEGER
                       AS taxon_index,
                     unnest(CASE WHEN len(p.taxa.items) > 0 THEN p.taxa.items ELSE [NULL] END) AS t
              FROM (SELECT id AS result_id, unnest(range(len(predictions)))::INTEGER AS prediction_index,
                           unnest(predictions) AS p
                    FROM analysis_group_result))""",
}

_ELEMENTS = """
    SELECT sum(len(media) - len(list_filter(media, lambda m: m IS NOT NULL))) AS null_media,
           sum(len(region_groups) - len(list_filter(region_groups, lambda g: g IS NOT NULL))) AS null_groups,
           sum(len(list_filter(region_groups,
               lambda g: len(list_filter(g.regions, lambda r: r IS NULL)) > 0))) AS null_regions,
           sum(len(predictions) - len(list_filter(predictions, lambda p: p IS NOT NULL))) AS null_predictions,
           sum(len(list_filter(predictions,
               lambda p: len(list_filter(p.taxa.items, lambda t: t IS NULL)) > 0))) AS null_taxa
    FROM analysis_group_result"""

_COUNTS = f"""
    SELECT count(*) AS {RESULT}, sum(len(media)) AS {RESULT}_media, sum(len(region_groups)) AS {RESULT}_region_group,
           sum(list_sum(list_transform(region_groups, lambda g: len(g.regions)))) AS {RESULT}_region,
           sum(list_sum(list_transform(predictions, lambda p: greatest(coalesce(len(p.taxa.items), 0), 1))))
             AS {RESULT}_prediction
    FROM {RESULT}"""

_REGIONS = """
    SELECT count_if(NOT (b.x1 BETWEEN 0 AND 1) OR NOT (b.y1 BETWEEN 0 AND 1)
                    OR NOT (b.x2 BETWEEN 0 AND 1) OR NOT (b.y2 BETWEEN 0 AND 1)) AS outside,
           count_if(b.x1 > b.x2 OR b.y1 > b.y2 OR b.t1 > b.t2) AS not_ordered
    FROM (SELECT unnest(g.regions).box AS b FROM (SELECT unnest(region_groups) AS g FROM analysis_group_result))"""

_TAXA = """
    SELECT count_if(NOT (t.probability BETWEEN 0 AND 1)) AS outside
    FROM (SELECT unnest(p.taxa.items) AS t FROM (SELECT unnest(predictions) AS p FROM analysis_group_result))"""

_REFERENCES = {
    "sensor_deployment.sensor_id": ("SELECT sensor_id AS id FROM sensor_deployment", "sensor"),
    "sensor_media_item.sensor_deployment_id": (
        "SELECT sensor_deployment_id AS id FROM sensor_media_item",
        "sensor_deployment",
    ),
    f"{RESULT}.algorithm_id": (f"SELECT algorithm_id AS id FROM {RESULT}", "algorithm"),
    f"{RESULT}.sensor_deployment_id": (f"SELECT sensor_deployment_id AS id FROM {RESULT}", "sensor_deployment"),
    f"{RESULT}.media[].sensor_media_item_id": (
        f"SELECT unnest(media).sensor_media_item_id AS id FROM {RESULT}",
        "sensor_media_item",
    ),
}


def rows_of(table: Table, delivery: str) -> str:
    """The query for a table's rows."""
    rows = _ROWS.get(table.name, f"SELECT * FROM {table.folder}")
    return f"SELECT *, NULL::VARCHAR AS _rescued, '{delivery}' AS {DELIVERY_COLUMN} FROM ({rows})"


def work(task: Task) -> None:
    """Write the delivery."""
    with tempfile.TemporaryDirectory() as folder:
        source = download(task, Path(folder)) if task.is_remote else Path(task.source)
        connection = duckdb.connect()
        # Timestamps are in UTC. The order of the rows is of no meaning, and without it DuckDB needs less memory.
        connection.execute(f"SET TimeZone = 'UTC'; SET preserve_insertion_order = false; SET temp_directory='{folder}'")
        for one in CONTRACT.folders:
            connection.execute(f"CREATE VIEW {one.name} AS SELECT * FROM read_parquet('{source}/{one.name}/*.parquet')")
        if task.checked:
            validate(connection)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda table: write(task, connection.cursor(), table), CONTRACT.tables))
        if task.checked:
            write_log(task, check_tables(task, connection))


def download(task: Task, folder: Path) -> Path:
    """Copy the delivery to this machine: DuckDB's extension for S3 isn't part of its package."""
    from biocloud_assets.lake import DataLake

    landing = DataLake.at(task.landing)
    for file in landing.walk(f"{CONTRACT.source}/{task.delivery}"):
        target = folder / Path(file.path).relative_to(f"{CONTRACT.source}/{task.delivery}")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(landing.read(file.path))
    return folder


def write(task: Task, connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Stream the rows of a table into it."""
    write_delta(task, table, connection.sql(rows_of(table, task.delivery)).to_arrow_reader(_BATCH_ROWS))


def validate(connection: duckdb.DuckDBPyConnection) -> None:
    """Check keys, nulls, null elements, ranges and references of the files."""

    def one(query: str) -> dict[str, int]:
        relation = connection.sql(query)
        return dict(zip(relation.columns, relation.fetchall()[0], strict=True))

    for folder in CONTRACT.folders:
        required = [field.name for field in folder.fields if field.presence is not Presence.OPTIONAL]
        found = one(
            f"SELECT count(*) AS rows, count(DISTINCT hash({folder.key})) AS keys, "
            + ", ".join(f"count_if({name} IS NULL) AS {name}_nulls" for name in required)
            + f" FROM {folder.name}"
        )
        require(found["rows"] == found["keys"], f"repeated keys in {folder.name}", found)
        require(not any(found[f"{name}_nulls"] for name in required), f"nulls in {folder.name}", found)
    for name, query in (("null elements", _ELEMENTS), ("regions", _REGIONS), ("taxa", _TAXA)):
        found = one(query)
        require(not any(found.values()), name, found)
    for name, (ids, target) in _REFERENCES.items():
        found = one(
            f"SELECT count(*) AS n FROM (SELECT DISTINCT id FROM ({ids})) ANTI JOIN {target} USING (id)"
            " WHERE id IS NOT NULL"
        )
        require(not found["n"], f"dangling references of {name}", found)


def check_tables(task: Task, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Read the tables back: compare rows, and check keys, ranges and references. Returns the rows of each."""
    from deltalake import DeltaTable

    for table in CONTRACT.tables:
        delta = DeltaTable(task.uri(table), storage_options=storage_options())
        if task.is_remote:
            connection.register(f"lake_{table.name}", delta.to_pyarrow_dataset())
        else:
            files = delta.file_uris(file_pruning_predicate=[(DELIVERY_COLUMN, "=", task.delivery)])
            connection.execute(
                f"CREATE VIEW lake_{table.name} AS SELECT * FROM read_parquet({files}, hive_partitioning = false)"
            )
    counts = connection.sql(_COUNTS)
    expected = {name: int(n or 0) for name, n in zip(counts.columns, counts.fetchall()[0], strict=True)}
    for table in CONTRACT.tables:
        if table.name not in expected:
            expected[table.name] = connection.execute(f"SELECT count(*) FROM {table.folder}").fetchall()[0][0]
        ranges = range_columns(CONTRACT, table)
        wrong = [
            *(f"{name} IS NULL" for name in table.required_key),
            *(f"NOT ({name} BETWEEN {low} AND {high})" for name, (low, high) in ranges.items()),
        ]
        (rows, keys, bad) = connection.execute(
            f"SELECT count(*), count(DISTINCT hash({', '.join(table.key)})), count_if({' OR '.join(wrong)})"
            f" FROM lake_{table.name}"
        ).fetchone() or (0, 0, 0)
        require(rows == expected[table.name], f"rows of {table.name}", rows)
        require(keys == rows, f"repeated keys in {table.name}", rows - keys)
        require(not bad, f"null keys and values outside their range in {table.name}", bad)
        for column, target in reference_columns(CONTRACT, table).items():
            (dangling,) = connection.execute(
                f"SELECT count(*) FROM (SELECT DISTINCT {column} AS id FROM lake_{table.name}) "
                f"ANTI JOIN lake_{target} USING (id) WHERE id IS NOT NULL"
            ).fetchone() or (0,)
            require(not dangling, f"dangling references of {table.name}.{column}", dangling)
    return expected


if __name__ == "__main__":
    run(work)
