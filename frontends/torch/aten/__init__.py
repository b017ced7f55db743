"""The importers of aten ops, one module a family; ``ATEN`` is filled by scanning this package."""

from importlib import import_module
from pkgutil import iter_modules

from ..protocol import ATEN

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["ATEN"]
