"""The protection of the dashboard against other sites: origin, token and headers."""

from __future__ import annotations

import re
from hmac import compare_digest
from secrets import token_urlsafe
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "pgqrs_dashboard"
"""The cookie with the token that each form repeats. It is no session, and grants nothing."""

FIELD = "token"
"""The field of a form with the token."""

_TOKEN_BYTES = 24

_FORM = re.compile(r"[\w-]{32}", re.ASCII)


def token_of(request: Request) -> str:
    """Return the token of the browser of a request, a new one if it has none; the same in each call."""
    known: str | None = getattr(request.state, FIELD, None)
    if known is None:
        own = request.cookies.get(COOKIE, "")
        known = own if _FORM.fullmatch(own) else token_urlsafe(_TOKEN_BYTES)
        setattr(request.state, FIELD, known)
    return known


def refusal(request: Request, token: str) -> str | None:
    """Return the reason for which a POST is refused, None if it comes from a page of this dashboard."""
    if not _is_same_origin(request):
        return "The request comes from another site."
    own = request.cookies.get(COOKIE, "")
    if not own or not compare_digest(own.encode(), token.encode()):
        return "The page is out of date: open it again, and repeat the action."
    return None


def _is_same_origin(request: Request) -> bool:
    # A browser sets these headers itself, and a form of another site cannot.
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if not origin:
        return False
    hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
    return urlsplit(origin).netloc in hosts - {None, ""}


def secured(response: Response, request: Request, *, token: str, nonce: str) -> Response:
    """Return a response with the headers that keep scripts, frames and caches away, and with the token."""
    scripts = f"'nonce-{nonce}'" if nonce else "'none'"
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers.update(
        {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            # With no referrer at all, a browser would send no origin with a form.
            "referrer-policy": "same-origin",
            "cache-control": "no-store",
            "vary": "Accept, Cookie",
        }
    )
    if request.cookies.get(COOKIE) != token:
        is_secure = "https" in {request.url.scheme, request.headers.get("x-forwarded-proto")}
        response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=is_secure)
    return response
