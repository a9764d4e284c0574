"""The overview of the codebase: assets, their addresses and columns, jobs, and folders, from the definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

import dagster as dg

from biocloud_assets.airflow.collect import asset_uri, build_definitions
from biocloud_assets.curated.dsi import paths
from biocloud_assets.curated.dsi.results import OBSERVATION
from biocloud_assets.docs.modules import Module, modules
from biocloud_assets.environments import Environment, load_environment
from biocloud_assets.raw import contracts
from biocloud_assets.schema import Contract, Presence, Table, walk
from biocloud_assets.spark.table_reader import table_name

_PAGE = """\
<!-- Generated from the Dagster definitions and the folders by `python -m biocloud_assets.docs`. -->

# Codebase

## Folders

A package has the name of what it makes: the tables `raw/dsi/…` come from `biocloud_assets/raw/dsi/`. The
[API reference](api/index.md) describes each module, and [Dependencies](dependencies.md) what may import what.

{folders}

## Assets

An arrow leads from an asset to one that is made from it. The delivery log, `raw/dsi/delivery`, is written last, when
all tables hold the delivery.

{graph}

## Addresses

An asset has one name everywhere. Its key leads to the page that describes it. The URIs and the catalog are those of
`{environment}`, from `databricks/environments.yml`. A delivered folder is in the landing zone, once for each delivery;
a curated asset has a folder or a file for each day.

{addresses}

## Jobs, schedules and sensors

[Orchestration](orchestration.md) explains who starts what.

{jobs}

## Columns

*From* names the columns that a column is made from: those of the asset that the section names, or of the one before the
dot. The rules are checked. A violated *key* or *never null* refuses a delivery; a dangling reference (→) or a value out
of range is a warning.
{columns}
"""

_ENVIRONMENT: Literal["development"] = "development"
"""The environment whose names are shown. The definitions of the others are the same."""

_FOLDERS = {
    "airflow_export": "The exported Airflow DAGs of each environment. Generated.",
    "benchmarks": "Measurements, and comparisons with other tools.",
    "biocloud_assets": "The package.",
    "databricks": "Scripts that run on Databricks, and what the environments look like there.",
    "docs": "This site.",
    "groups": "The members of the Databricks groups.",
    "tests": "The tests, in the same folders as the package.",
}


_CURATED = {"observation": "observation/", "manifest": paths.MANIFEST}
"""Where a day's folder holds an asset; the asset `retention` is the folders themselves."""


def page(root: Path) -> str:
    """The page, in Markdown.

    Args:
        root: the folder of the repository.
    """
    definitions, _ = build_definitions(_ENVIRONMENT)
    environment = load_environment(root / "databricks/environments.yml", _ENVIRONMENT)
    assets = _Assets(definitions)
    return _PAGE.format(
        folders="\n".join(_folders(root)),
        graph="\n".join(_graph(assets)),
        environment=_ENVIRONMENT,
        addresses="\n".join(_addresses(root, environment, assets)),
        jobs="\n".join(_jobs(definitions)),
        columns="\n".join(line for address in assets.addresses for line in _columns(assets, address)),
    )


class _Assets:
    """The assets by their addresses, in the order in which a delivery makes them."""

    def __init__(self, definitions: dg.Definitions) -> None:
        self.specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
        raw = [address for contract in contracts() for address in contract.addresses]
        upstream = {name: [dep.asset_key.to_user_string() for dep in spec.deps] for name, spec in self.specs.items()}
        order = TopologicalSorter({name: sorted(upstream[name]) for name in sorted(self.specs)}).static_order()
        self.addresses = [*raw, *(address for address in order if address not in raw)]

    def upstream(self, address: str) -> list[str]:
        found = {dependency.asset_key.to_user_string() for dependency in self.specs[address].deps}
        return [address for address in self.addresses if address in found]

    def columns(self, address: str) -> dg.TableSchema | None:
        schema = self.specs[address].metadata.get("dagster/column_schema")
        return schema.schema if isinstance(schema, dg.TableSchemaMetadataValue) else schema

    def lineage(self, address: str) -> Mapping[str, list[tuple[str, str]]]:
        value = self.specs[address].metadata.get("dagster/column_lineage")
        lineage = value.column_lineage if isinstance(value, dg.TableColumnLineageMetadataValue) else value
        if lineage is None:
            return {}
        return {
            column: [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
            for column, deps in lineage.deps_by_column.items()
        }


def _folders(root: Path) -> Iterator[str]:
    tree = [module for module in modules(root) if module.is_package or module.name.count(".") == 1]
    yield "| folder | content |"
    yield "| --- | --- |"
    for folder, text in _FOLDERS.items():
        assert (root / folder).is_dir(), folder
        if folder != "biocloud_assets":
            yield f"| `{folder}/` | {text} |"
            continue
        yield from (_folder_row(module) for module in sorted(tree, key=_files_last))


def _files_last(module: Module) -> tuple[bool, str]:
    return not module.is_package, module.name


def _folder_row(module: Module) -> str:
    return f"| `{module.path}{'/' if module.is_package else ''}` | {module.summary} |"


def _graph(assets: _Assets) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for address in assets.addresses:
        groups.setdefault(assets.specs[address].group_name or "", []).append(address)
    yield "```mermaid"
    yield '%%{init: {"flowchart": {"rankSpacing": 20, "nodeSpacing": 20}}}%%'
    yield "flowchart LR"
    for group, addresses in groups.items():
        yield f"  subgraph {group}"
        for address in addresses:
            yield f'    {_node(address)}["{_label(address.rpartition("/")[2])}"]'
        yield "  end"
    for address in assets.addresses:
        for upstream in assets.upstream(address):
            yield f"  {_node(upstream)} --> {_node(address)}"
    yield "```"


def _label(name: str) -> str:
    """A name for the graph; a long one is on two lines, so that the graph is narrower."""
    end = name.rfind("_", 0, 22) if len(name) > 22 else -1
    return name if end < 0 else f"{name[:end]}<br>{name[end:]}"


def _node(address: str) -> str:
    return address.replace("/", "_")


def _addresses(root: Path, environment: Environment, assets: _Assets) -> Iterator[str]:
    yield "| asset key | path | catalog table | code | Airflow asset URI |"
    yield "| --- | --- | --- | --- | --- |"
    for address in assets.addresses:
        layer, source, name = address.split("/")
        path = {
            "landing": f"<landing root>/{source}/<delivery>/{name}/",
            "raw": f"<lake root>/{address}/",
            "curated": f"<curated root>/{source}/<day>/{_CURATED.get(name, '')}",
        }[layer]
        table = f"`{table_name(address, environment.catalog or '<catalog>')}`" if layer == "raw" else ""
        code = f"biocloud_assets/{'raw' if layer == 'landing' else layer}/{source}/"
        assert (root / code).is_dir(), code
        link = f"[`{address}`]({_docs_link(root, address)})"
        yield f"| {link} | `{path}` | {table} | `{code}` | `{asset_uri(environment, address)}` |"


def _docs_link(root: Path, address: str) -> str:
    """The page of the data architecture that describes an asset, and there the asset's heading if it has one."""
    layer, source, _ = address.split("/")
    page = f"data-architecture/{'raw' if layer == 'landing' else layer}/{source}.md"
    file = root / "docs" / page
    headings = re.findall(r"^#+ (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if file.exists() else []
    return f"{page}{_anchor(address) if address in headings else ''}"


def _anchor(heading: str) -> str:
    return "#" + re.sub(r"[^\w-]", "", heading)


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    yield "| kind | name | starts | content |"
    yield "| --- | --- | --- | --- |"
    for job in sorted(definitions.resolve_all_job_defs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            yield f"| job | `{job.name}` | {', '.join(f'`{node.name}`' for node in job.nodes)} | {job.description} |"
    for schedule in sorted(definitions.schedules or (), key=lambda schedule: schedule.name):
        assert isinstance(schedule, dg.ScheduleDefinition), schedule
        text = f"At `{schedule.cron_schedule}`, {schedule.execution_timezone or 'UTC'}. {schedule.description or ''}"
        yield f"| schedule | `{schedule.name}` | `{schedule.job_name}` | {text.strip()} |"
    for sensor in sorted(definitions.sensors or (), key=lambda sensor: sensor.name):
        starts = ", ".join(f"`{target.job_name}`" for target in sensor.targets)
        yield f"| sensor | `{sensor.name}` | {starts} | {sensor.description} |"


def _columns(assets: _Assets, address: str) -> Iterator[str]:
    schema = assets.columns(address)
    if schema is None:
        return
    lineage, rules = assets.lineage(address), _rules(address)
    sources = {asset for deps in lineage.values() for asset, _ in deps}
    only = next(iter(sources)) if len(sources) == 1 else None
    yield ""
    yield f"### {address}"
    yield ""
    yield f"{assets.specs[address].description}"
    if only:
        yield f"Made from [`{only}`]({_anchor(only)})."
    yield ""
    yield "| column | type | rules | from |" if lineage else "| column | type | rules |"
    yield "| --- | --- | --- | --- |" if lineage else "| --- | --- | --- |"
    for column in schema.columns:
        found = [] if column.constraints.nullable else ["never null"]
        cells = [f"`{column.name}`", f"`{column.type}`", ", ".join([*rules.get(column.name, []), *found])]
        if lineage:
            deps = lineage.get(column.name, [])
            cells.append(", ".join(f"`{name if only else _last(asset) + '.' + name}`" for asset, name in deps))
        yield f"| {' | '.join(cells)} |"


def _last(address: str) -> str:
    return address.rpartition("/")[2]


def _rules(address: str) -> dict[str, list[str]]:
    """Keys, references and ranges of an asset's columns."""
    for contract in contracts():
        for folder in contract.folders:
            if address == contract.landing_address(folder.name):
                found: dict[str, list[str]] = {}
                for path, field in walk(folder.fields):
                    column = re.split(r"[.\[]", path)[0]
                    inner = "" if path == column else f"`{path}` "
                    rules = ["key"] if field.presence is Presence.KEY else []
                    if field.references:
                        rules.append(f"{inner}→ `{contract.landing_address(field.references)}`")
                    if field.range:
                        rules.append(f"{inner}{field.range[0]:g} to {field.range[1]:g}")
                    found.setdefault(column, []).extend(rules)
                return found
        for table in (*contract.tables, contract.log):
            if address == contract.address(table):
                return _rules_of_table(contract, table)
    return {"occurrenceID": ["key"]} if address == OBSERVATION else {}


def _rules_of_table(contract: Contract, table: Table) -> dict[str, list[str]]:
    fields = dict(walk(contract.folder(table.folder).fields)) if table.folder else {}
    found = {}
    for column in table.columns:
        rules = ["key"] if column.name in table.key else []
        field = fields.get(column.source or "") if column.takes == "value" else None
        if field is not None and field.references:
            rules.append(f"→ `{contract.address(contract.record_table(field.references))}`")
        if field is not None and field.range:
            rules.append(f"{field.range[0]:g} to {field.range[1]:g}")
        found[column.name] = rules
    return found
