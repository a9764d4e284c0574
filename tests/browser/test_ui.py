"""`biocloud dev` in a browser, as a person uses it after `biocloud ingest --sample`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from biocloud_assets.raw.dsi.contract import CONTRACT
from biocloud_assets.sample import BUNDLED
from tests.browser.ui import GROUPS, JOB, Ui, open_page
from tests.cli.biocloud import Biocloud, Dev, wait_for
from tests.ingest.deliveries import record, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

LARGE = "2024-01-01-00:00:00"  # as `biocloud sample` calls it
REFUSED, NEW = "2026-01-02-06:00:00", "2026-01-03-06:00:00"
BACKFILLED = [f"2026-02-0{day}-06:00:00" for day in range(1, 5)]
TABLE = "/assets/raw/dsi/sensor_deployment"


@pytest.fixture(scope="module")
def biocloud(tmp_path_factory: pytest.TempPathFactory) -> Biocloud:
    """A home with the sample ingested, and a few deliveries that aren't."""
    biocloud = Biocloud(tmp_path_factory.mktemp("home"))
    biocloud("ingest", "--sample")
    biocloud("sample", "--results", "100000")
    write(biocloud.landing, REFUSED, algorithm=[record("algorithm", id=None)])
    for delivery in (NEW, *BACKFILLED):
        write(biocloud.landing, delivery)
    return biocloud


@pytest.fixture(scope="module")
def ui(biocloud: Biocloud) -> Iterator[Ui]:
    """The pages of a `biocloud dev` that requests no run by itself."""
    with open_page() as page:
        dev = Dev(biocloud)
        with biocloud.instance() as instance:
            instance.add_dynamic_partitions("dsi_delivery", [LARGE, REFUSED, NEW, *BACKFILLED])
        yield Ui(page, dev, biocloud)
        dev.stop()


def started(biocloud: Biocloud, run: str) -> None:
    """Wait until the step of a run has started."""
    with biocloud.instance() as instance:
        wait_for(lambda: instance.all_logs(run, of_type=dg.DagsterEventType.STEP_START))


def test_the_global_lineage_shows_the_three_layers_with_groups_and_kinds(ui: Ui) -> None:
    ui.open_lineage()
    ui.wait_for(*GROUPS, "PySpark", "Delta Lake", "Parquet")
    graph = ui.page.locator("foreignObject")
    tables = [table.name for table in (*CONTRACT.tables, CONTRACT.log)]
    for name in (*(folder.name for folder in CONTRACT.folders), *tables, "observation", "manifest", "retention"):
        # A long name is shortened in its middle.
        graph.get_by_text(re.compile(f"^({name}|{name[:12]}.*{name[-8:]})$")).first.wait_for()


def test_the_page_of_a_table_shows_columns_lineage_row_counts_and_passed_checks(ui: Ui) -> None:
    ui.open(TABLE)
    for column in CONTRACT.table("sensor_deployment").columns:
        ui.wait_for(column.name)
        if column.description:
            ui.page.get_by_text(column.description).first.wait_for(state="attached")
    ui.wait_for("non-nullable", "Delta Lake", "PySpark", "raw_dsi", "biocloud")
    ui.wait_for("landing / dsi / sensor_deployment", "curated / dsi / observation")
    ui.button("Plots").click()
    plot = ui.page.locator("canvas").first
    plot.wait_for()
    ui.wait_for("dagster/partition_row_count")

    ui.open(f"{TABLE}?view=checks")
    ui.wait_for("Checks (3)", "key", "references", "row_count", "Passed", BUNDLED[-1])
    assert ui.page.get_by_text("Succeeded", exact=True).filter(visible=True).count() == 3

    ui.open(f"{TABLE}?view=lineage")
    ui.wait_for("landing_dsi", "curated_dsi", "3 / 3 Passed")


def test_a_delivery_is_materialized_by_a_click(ui: Ui, biocloud: Biocloud) -> None:
    run = ui.materialize(NEW)
    ui.open_run(run)
    ui.wait_for("Success")
    ui.open(f"{TABLE}?view=partitions&partition={NEW}")
    ui.wait_for(NEW, run[:8], "dagster/partition_row_count")
    assert biocloud("verify", NEW).count("equal") == 5


def test_a_run_of_the_command_line_is_on_the_page_of_its_job_and_can_be_executed_again(
    ui: Ui, biocloud: Biocloud
) -> None:
    run = next(run.run_id for run in biocloud.runs() if run.tags.get("dagster/partition") == BUNDLED[-1])
    ui.open(f"{JOB}/runs")
    ui.text(run[:8]).click()
    ui.wait_for("Success")
    ui.execute_again()
    again = wait_for(lambda: next((one for one in biocloud.runs() if one.parent_run_id == run), None))
    ui.page.wait_for_url(f"**/runs/{again.run_id}*")
    ui.wait_for("Success")


def test_a_run_that_is_terminated_in_the_ui_is_canceled_and_its_process_ends(ui: Ui, biocloud: Biocloud) -> None:
    run = ui.materialize(LARGE)
    ui.open_run(run)
    started(biocloud, run)
    process = biocloud.process_of(run)
    ui.terminate()
    ui.wait_for("Canceled")
    wait_for(lambda: not process.is_running())


def test_a_run_whose_process_is_killed_has_failed_and_can_be_executed_again(ui: Ui, biocloud: Biocloud) -> None:
    run = ui.materialize(LARGE)
    ui.open_run(run)
    started(biocloud, run)
    biocloud.process_of(run).kill()
    ui.wait_for("Failure")
    ui.execute_again()
    ui.wait_for("Success")
    assert biocloud("verify", LARGE).count("equal") == 5


def test_a_refused_delivery_is_seen_on_the_run_the_check_and_the_asset(ui: Ui, biocloud: Biocloud) -> None:
    run = ui.materialize(REFUSED)
    ui.open_run(run)
    ui.wait_for("Failure", re.compile(f"null key: delivery {REFUSED}, folder algorithm"))

    ui.open("/assets/landing/dsi/algorithm?view=checks&checkDetail=contract")
    ui.wait_for("Failed", REFUSED, re.compile(f"null key: delivery {REFUSED}"), "violations", "a key in every row")

    for folder in CONTRACT.folders:
        ui.open(f"/assets/landing/dsi/{folder.name}?view=partitions&partition={REFUSED}")
        ui.wait_for(re.compile("failed, and did not materialize this asset"), run[:8])
    with biocloud.instance() as instance:
        for address in CONTRACT.addresses:
            assert REFUSED not in instance.get_materialized_partitions(dg.AssetKey(address.split("/"))), address
    assert {run["state"] for run in biocloud.json("deliveries") if run["delivery"] == REFUSED} == {"refused"}


def test_a_backfill_ingests_four_deliveries(ui: Ui, biocloud: Biocloud) -> None:
    ui.backfill("2026-02-0", partitions=4)
    with biocloud.instance() as instance:
        wait_for(lambda: [one.status for one in instance.get_backfills()] == [BulkActionStatus.COMPLETED_SUCCESS])
    ui.open("/runs?view=backfills")
    ui.wait_for("4 partitions")
    ui.open(f"{TABLE}?view=partitions&partition={BACKFILLED[-1]}")
    ui.wait_for("dagster/partition_row_count")
    ingested = {row["delivery"] for row in biocloud.json("deliveries") if row["state"] == "ingested"}
    assert ingested >= set(BACKFILLED)
