"""The docs site in a browser: nothing comes from another server, diagrams are drawn, and the search finds functions."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.markdown import ROOT
from tests.needs import unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

Scheme = Literal["light", "dark"]

# A page of each kind: text, diagrams, wide tables, the API reference.
PAGES = ("", "how-it-works/", "dsi/", "codebase/", "troubleshooting/", "data-architecture/curated/dsi/", "api/curated/")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built from a copy by the same command as in CI."""
    root = tmp_path_factory.mktemp("site")
    for folder in ("docs", "biocloud_assets"):
        ignored = shutil.ignore_patterns("site", ".cache", "__pycache__", "*.parquet")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    build = ["zensical", "build", "--clean", "--strict", "-f", str(root / "docs/zensical.toml")]
    done = subprocess.run(
        ["uv", "run", "--isolated", "--frozen", "--only-group", "docs", *build],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "docs/site"


class _Document(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.loaded.append(given.get("href", ""))
        elif "src" in given:
            self.loaded.append(given["src"])


def test_every_link_of_the_built_site_leads_somewhere(built: Path) -> None:
    pages = {path: _Document(path.read_text()) for path in built.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            address = urlsplit(target)
            if address.scheme or address.netloc:
                continue
            base = built if address.path.startswith("/") else path.parent
            found = (base / unquote(address.path).lstrip("/")).resolve() if address.path else path
            found = found / "index.html" if found.is_dir() else found
            anchor = unquote(address.fragment)
            if not found.is_file():
                broken.append(f"{path.relative_to(built)}: {target}: no such file")
            elif anchor and found in pages and anchor not in {*pages[found].anchors, "__skip"}:
                broken.append(f"{path.relative_to(built)}: {target}: no such anchor")
    assert broken == []


def test_no_page_loads_anything_from_another_server(built: Path) -> None:
    for path in built.rglob("*.html"):
        foreign = [target for target in _Document(path.read_text()).loaded if urlsplit(target).netloc]
        assert foreign == [], path.relative_to(built)
    for path in built.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text()), path.relative_to(built)


class Site:
    """The site in a browser, with what its pages logged and requested."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address
        self.logged: list[str] = []
        self.foreign: list[str] = []

    def open(self, path: str, scheme: Scheme = "light", width: int = 1400) -> Page:
        context = self.browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 1000})
        page = context.new_page()
        page.on("console", lambda message: self._log(f"{path}: {message.text}", message.type))
        page.on("pageerror", lambda error: self.logged.append(f"{path}: {error}"))
        page.on("request", lambda request: self._note(request.url))
        # The theme draws diagrams in closed shadow roots, into which no test can look.
        page.add_init_script(
            "const attach = Element.prototype.attachShadow;"
            "Element.prototype.attachShadow = function (how) { return attach.call(this, {...how, mode: 'open'}) }"
        )
        page.goto(self.address + path, wait_until="networkidle")
        page.wait_for_function("!document.querySelector('pre.mermaid')")
        return page

    def _log(self, text: str, level: str) -> None:
        if level in {"error", "warning"}:
            self.logged.append(text)

    def _note(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.foreign.append(url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        unavailable("there is no chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("there is no playwright: uv sync --group browser")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Don't log each request."""


@pytest.fixture
def site(built: Path, browser: Browser) -> Iterator[Site]:
    """The site, served below a path, as GitLab Pages does. A test may neither log nor request anything else."""
    handler = functools.partial(_Handler, directory=str(built.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = Site(browser, f"http://127.0.0.1:{server.server_port}/site/")
    yield site
    for context in browser.contexts:
        context.close()
    server.shutdown()
    server.server_close()
    assert site.logged == []
    assert site.foreign == []


def test_every_page_opens_without_errors_and_without_requests_to_other_servers(site: Site, built: Path) -> None:
    for path in sorted(built.rglob("index.html")):
        folder = path.parent.relative_to(built).as_posix()
        page = site.open("" if folder == "." else f"{folder}/")
        page.locator("article h1").first.wait_for()
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["how-it-works/", "dsi/", "codebase/", "orchestration/"])
def test_diagrams_are_drawn_in_both_schemes(site: Site, path: str, scheme: Scheme) -> None:
    source = (ROOT / "docs" / f"{path.rstrip('/')}.md").read_text()
    page = site.open(path, scheme)
    drawn = page.locator("div.mermaid svg")
    drawn.first.wait_for()
    assert drawn.count() == source.count("```mermaid")
    assert page.locator("pre.mermaid").count() == 0
    for diagram in drawn.all():
        box = diagram.bounding_box()
        assert box is not None
        assert box["width"] > 100
        assert box["height"] > 100
        assert "Syntax error" not in (diagram.text_content() or "")


@pytest.mark.parametrize("path", ["how-it-works/", "dsi/", "codebase/", "orchestration/"])
def test_a_diagram_stays_readable_in_a_narrow_window_and_scrolls(site: Site, path: str) -> None:
    page = site.open(path, width=390)
    page.locator("div.mermaid svg").first.wait_for()
    for diagram in page.locator("div.mermaid").all():
        drawn, full = diagram.evaluate(
            "e => [e.shadowRoot.firstElementChild].flatMap(svg => [svg.clientWidth, svg.viewBox.baseVal.width])"
        )
        assert drawn >= 0.53 * full, "Mermaid writes with 16 pixels, so these are more than 8"
        if drawn > 390:
            assert diagram.get_attribute("tabindex") == "0", "so that the arrow keys scroll it"


def test_the_scheme_follows_the_system_and_can_be_changed(site: Site) -> None:
    def background(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = (site.open("", scheme) for scheme in ("light", "dark"))
    assert background(light) != background(dark)
    light.get_by_role("button", name="Switch to light mode").or_(light.get_by_title("Switch to light mode")).click()
    light.get_by_title("Switch to dark mode").click()
    assert background(light) == background(dark)


def test_the_search_finds_a_function(site: Site) -> None:
    page = site.open("")
    page.keyboard.press("Control+k")
    page.locator("input:focus").wait_for()
    page.keyboard.type("write_manifest")
    page.locator("a").filter(has_text="relative_path: str, data_lake: DataLake").first.click()
    page.wait_for_url("**/api/curated/**#biocloud_assets.curated.dsi.manifest.write_manifest")
    assert page.get_by_role("heading", name="write_manifest").first.is_visible()


def test_the_api_reference_has_tables_of_parameters(site: Site) -> None:
    page = site.open("api/curated/")
    table = page.locator("[id='biocloud_assets.curated.dsi.manifest.write_manifest'] ~ div table").first
    assert "relative_path" in table.inner_text()
    assert "data_lake" in table.inner_text()


def test_a_return_value_that_is_described_in_several_lines_is_one_row(site: Site) -> None:
    page = site.open("api/spark/")
    row = page.locator("tr").filter(has_text="the version, None if there is no table").first
    assert "A partition that was emptied isn't among them." in " ".join(row.inner_text().split())


@pytest.mark.parametrize("path", PAGES)
def test_a_narrow_window_scrolls_down_only(site: Site, path: str) -> None:
    page = site.open(path, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_no_page_violates_wcag_a(site: Site, path: str, scheme: Scheme) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = site.open(path, scheme)
    rules = {"runOnly": ["wcag2a", "wcag21a", "wcag22a"], "resultTypes": ["violations"]}
    found = Axe().run(page, options=rules).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found] == []
