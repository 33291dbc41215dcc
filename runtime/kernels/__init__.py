"""The kernels, by trade. Conventions of views and geometries as tuples are documented in `kernels.dense` and `kernels.depthwise`."""

from __future__ import annotations

from sasimc.runtime.kernels.cache import sources  # first of all: it watches what follows
from sasimc.runtime.kernels.forms import form

__all__ = ["form", "sources"]
