"""The raw layer: each package in here is a source, and holds its contract as `contract.CONTRACT`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from biocloud_assets.schema import Contract


def contracts() -> tuple[Contract, ...]:
    """The contracts of all sources, by name."""
    sources = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return tuple(import_module(f"{__name__}.{source}.contract").CONTRACT for source in sources)


def contract_of(address: str) -> Contract | None:
    """The contract that an address belongs to, `raw/dsi/sensor`; None if it is of no source."""
    layer, source, *_ = [*address.split("/"), ""]
    if layer not in {"landing", "raw"}:
        return None
    return next((contract for contract in contracts() if contract.source == source), None)
