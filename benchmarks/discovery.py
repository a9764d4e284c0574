"""What a tick of the sensor for deliveries costs with many deliveries in S3: requests, time and memory."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.measure import Say, environment, megabytes, run, seconds
from benchmarks.results import Result, Table
from benchmarks.s3_server import BUCKET, delivery_name, s3_server

_NEW = (0, 1, 100)


def measure(*, deliveries: int, say: Say) -> Result:
    """Evaluate the sensor as the daemon does.

    Args:
        deliveries: how many are in the landing zone and in the delivery log; to these come the new ones.
        say: reports progress.
    """
    say(f"putting {deliveries:,} deliveries into S3")
    with s3_server("--deliveries", str(deliveries + max(_NEW))) as server, tempfile.TemporaryDirectory() as folder:
        say(f"ticks of the sensor with {deliveries:,} deliveries")
        program = ["-m", "benchmarks.discovery", folder, str(deliveries)]
        found = run(program, environment(BIOCLOUD_HOME=folder, **server)).report
    result = Result("discovery")
    rows = []
    for new in _NEW:
        one = found[str(new)]
        rows.append(
            [
                f"{new:,} new",
                str(one["requests"]),
                str(one["run_requests"]),
                seconds(one["cpu"]),
                seconds(one["seconds"]),
            ]
        )
        result.figures[f"requests_{new}"] = one["requests"]
        result.figures[f"cpu_{new}"] = one["cpu"]
    columns = ["tick", "requests to S3", "runs requested", "CPU", "time"]
    result.tables.append(Table(f"{deliveries:,} ingested deliveries", columns, rows))
    notes = [
        "A tick lists the names of the deliveries since the look-back window of 30 days, 1,000 in a request, and the "
        "files of at most 60 that aren't ingested. It requests at most 20 runs; the next ticks go on. Once an hour a "
        "tick also lists the names before the window; that tick isn't shown. The time is mostly the S3 server's, which "
        "looks at all objects for each request; the CPU time is the tick's.",
        f"Memory of the process at the peak, with Dagster and the definitions: {megabytes(found['memory'])}; before "
        f"the first tick {megabytes(found['memory_before'])}.",
    ]
    result.notes.extend(notes)
    result.figures["memory_of_ticks"] = found["memory"] - found["memory_before"]
    return result


def main(home: str, count: str) -> None:
    """Evaluate ticks with 0, 1 and 100 deliveries that aren't in the delivery log; print what each cost."""
    import dagster as dg

    from biocloud_assets.definitions import build_definitions
    from biocloud_assets.lake.s3 import S3Lake
    from biocloud_assets.resources import LakehouseResource
    from biocloud_assets.settings import Settings

    settings = Settings(landing_root=f"s3://{BUCKET}/landing", lake_root=f"{home}/lake", home=Path(home))
    repository = build_definitions(settings).get_repository_def()
    sensor = repository.get_sensor_def("dsi_deliveries")
    resources: dict[str, Any] = {"lakehouse": LakehouseResource.from_settings(settings)}
    requests: list[str] = []
    make = S3Lake.__init__

    def counted(self: S3Lake, *arguments: Any) -> None:
        make(self, *arguments)
        self._s3.meta.events.register("before-call.s3", lambda model, **_: requests.append(model.name))

    setattr(S3Lake, "__init__", counted)  # noqa: B010
    total = int(count) + max(_NEW)
    report: dict[str, Any] = {}
    with dg.instance_for_test() as instance:
        logged, cursor = 0, None

        def tick() -> Any:
            context = dg.build_sensor_context(
                instance=instance,
                instance_ref=instance.get_ref(),
                cursor=cursor,
                repository_def=repository,
                resources=resources,
            )
            return sensor.evaluate_tick(context)

        report["memory_before"] = _memory()
        for new in _NEW:  # the newest deliveries aren't logged
            if new == 0:
                _log(settings.lake, map(delivery_name, range(total)))
                logged = total
            else:
                _forget(settings.lake, [delivery_name(number) for number in range(logged - new, logged)])
            cursor = tick().cursor  # finds them, and, the first one, those before the window
            requests.clear()
            start, cpu = time.perf_counter(), time.process_time()
            found = tick()
            report[str(new)] = {
                "requests": len(requests),
                "seconds": time.perf_counter() - start,
                "cpu": time.process_time() - cpu,
                "run_requests": len(found.run_requests or ()),
            }
        report["memory"] = _memory()
    print(json.dumps(report))


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _log(lake: str, names: Iterable[str]) -> None:
    """Commit deliveries to the delivery log, without their data files: a tick reads only the log of the table."""
    import pyarrow as pa
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction

    from biocloud_assets.raw.dsi.contract import CONTRACT
    from biocloud_assets.schema import DELIVERY_COLUMN, arrow_type

    fields = pa.schema([(column.name, arrow_type(column.type)) for column in CONTRACT.log.columns])
    schema = Schema.from_arrow(fields)
    uri = f"{lake}/{CONTRACT.address(CONTRACT.log)}"
    table = DeltaTable.create(uri, schema, partition_by=[DELIVERY_COLUMN])
    actions: list[AddAction | RemoveAction] = [
        AddAction(f"{uuid.uuid4()}.parquet", 1, {DELIVERY_COLUMN: name}, 0, True, "{}") for name in names
    ]
    table.create_write_transaction(actions, "append", schema, [DELIVERY_COLUMN])


def _forget(lake: str, names: list[str]) -> None:
    """Remove deliveries from the delivery log."""
    from deltalake import DeltaTable

    from biocloud_assets.raw.dsi.contract import CONTRACT
    from biocloud_assets.schema import DELIVERY_COLUMN

    chosen = ", ".join(f"'{name}'" for name in names)
    DeltaTable(f"{lake}/{CONTRACT.address(CONTRACT.log)}").delete(f"{DELIVERY_COLUMN} IN ({chosen})")


if __name__ == "__main__":
    main(*sys.argv[1:])
