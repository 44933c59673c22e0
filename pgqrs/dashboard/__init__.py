"""The dashboard: an ASGI application that shows workflows and changes them; it needs `pgqrs[dashboard]`."""

from __future__ import annotations

try:
    from pgqrs.dashboard.access import Access, Action, Authorize, Granted, local
    from pgqrs.dashboard.app import dashboard
except ModuleNotFoundError as error:
    raise ImportError("the dashboard needs Starlette and Jinja2: pip install 'pgqrs[dashboard]'.") from error

__all__ = ["Access", "Action", "Authorize", "Granted", "dashboard", "local"]
