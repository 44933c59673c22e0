"""Changes of an `Admin` that its arguments do not allow."""

from __future__ import annotations

from pgqrs import Admin


def limit(admin: Admin, **limits: float) -> None:
    """Change limits of an admin that has not been used yet."""
    loops = admin._loops
    loops.settings = loops.settings._replace(limits=loops.settings.limits._replace(**limits))
