"""A browser for the tests of the dashboard: it keeps cookies, and sends forms as a page of the dashboard does."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import httpx

from pgqrs.dashboard import Access, dashboard

BASE = "http://localhost"


class Browser:
    """A client of an ASGI application that has the dashboard under a prefix."""

    def __init__(self, app, prefix="", client="127.0.0.1", base=BASE):
        transport = httpx.ASGITransport(app, client=(client, 4711))
        self.client = httpx.AsyncClient(transport=transport, base_url=base, headers={"accept": "text/html"})
        self.prefix = prefix

    async def get(self, path, **headers):
        return await self.client.get(self.prefix + path, headers=headers)

    async def json(self, path):
        answer = await self.get(path, accept="application/json")
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    async def token(self):
        await self.get("/list")
        return self.client.cookies["pgqrs_dashboard"]

    async def post(self, path, headers=None, **fields):
        """Send a form with the token, and return the answer without following it."""
        fields.setdefault("token", await self.token())
        headers = {"origin": BASE} if headers is None else headers
        return await self.client.post(self.prefix + path, data=fields, headers=headers)


def browser(admin, authorize=lambda _request: Access.ALL, **options):
    """Return a browser on a dashboard that allows everything."""
    return Browser(dashboard(admin, authorize, **options))


def links(text):
    """Return the URLs of the links and the forms of a page."""
    return {unescape(each) for each in re.findall(r'(?:href|action|src)="([^"]*)"', text)}


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script":
            self.found[-1][2] += data.strip()


def elements(text):
    """Return the elements of a page: tag, attributes, and the text of scripts."""
    parser = _Elements()
    parser.feed(text)
    return parser.found
