"""Dagster's UI in headless Chromium, used as a person does: pages, dialogs and clicks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.cli.biocloud import LOCATION, Biocloud, Dev, wait_for
from tests.needs import unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

JOB = f"/locations/{LOCATION}/jobs/dsi_raw"
GROUPS = ("landing_dsi", "raw_dsi", "curated_dsi")

_TIMEOUT_MS = 120_000
"""How long a page may take to show what is expected: pages that follow a run wait for the run."""


@contextmanager
def open_page(*, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A new page in headless Chromium; without one, the test is skipped."""
    executable = shutil.which("chromium")
    if executable is None:
        unavailable("needs Chromium: apt-get install --no-install-recommends chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("needs Playwright: uv run --group browser pytest -m browser")
    with sync_playwright() as playwright:
        # The sandbox needs a kernel feature that containers don't have, and /dev/shm is small there.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(_TIMEOUT_MS)
        yield page
        browser.close()


class Ui:
    """The pages of a running `biocloud dev`.

    Attributes:
        page: the browser's page.
    """

    def __init__(self, page: Page, dev: Dev, biocloud: Biocloud) -> None:
        self.page = page
        self._dev = dev
        self._biocloud = biocloud

    def open(self, path: str) -> None:
        self.page.goto(self._dev.url + path)

    def text(self, text: str) -> Locator:
        """What shows exactly a text; the UI keeps invisible copies of shortened texts, which don't count."""
        return self.page.get_by_text(text, exact=True).filter(visible=True).first

    def wait_for(self, *texts: str | re.Pattern[str]) -> None:
        """Wait until the page shows each of some texts."""
        for text in texts:
            exact = isinstance(text, str)
            self.page.get_by_text(text, exact=exact).filter(visible=True).first.wait_for()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name).filter(visible=True).first

    def open_lineage(self) -> None:
        """The global lineage with all groups expanded, on a screen on which the whole of it fits with all details."""
        self.page.set_viewport_size({"width": 2400, "height": 2400})
        self.open("/asset-groups")
        for group in GROUPS:
            self.page.locator("foreignObject.group").get_by_text(group, exact=True).click()
        self.page.wait_for_url(lambda url: all(group in url for group in GROUPS))
        self.page.reload()

    def materialize(self, delivery: str) -> str:
        """Materialize one delivery from the page of the job, and return the run."""
        before = {run.run_id for run in self._biocloud.runs()}
        self._launch(delivery, partitions=1)
        return str(wait_for(lambda: next((r.run_id for r in self._biocloud.runs() if r.run_id not in before), None)))

    def backfill(self, prefix: str, *, partitions: int) -> None:
        """Start a backfill of the deliveries whose name begins with a prefix, from the page of the job."""
        self._launch(prefix, partitions=partitions)

    def _launch(self, prefix: str, *, partitions: int) -> None:
        self.open(JOB)
        self.button("Materialize all").click()
        # Its list of partitions is a dialog of its own, which is closed with an animation.
        dialog = self.page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
        dialog.get_by_text("Select a partition or create one").click()
        self.page.get_by_placeholder("Filter partitions").fill(prefix)
        self.page.get_by_text(f"Select all ({partitions})", exact=True).click()
        self.page.keyboard.press("Escape")
        dialog.get_by_role("button", name=re.compile("^Launch")).click()
        dialog.wait_for(state="hidden")

    def open_run(self, run: str) -> None:
        self.open(f"/runs/{run}")

    def terminate(self) -> None:
        """Terminate the run whose page is open."""
        self.button("Terminate").click()
        self.page.get_by_role("dialog").get_by_role("button", name=re.compile("^Terminate")).click()

    def execute_again(self) -> str:
        """Re-execute the run whose page is open, and return the new run, whose page is then open."""
        before = self.page.url
        self.button("Re-execute all").click()
        self.page.wait_for_url(lambda url: "/runs/" in url and url != before)
        return self.page.url.split("/runs/")[1].split("?")[0]
