"""Who sees the dashboard and who may act: access, tokens, origins, headers, and values that hold markup."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.fernet import Fernet

import pgqrs.dashboard
from pgqrs import Admin, Cron, PyWorkflow, workflow
from pgqrs.codecs import FernetCodec
from pgqrs.dashboard import Access, dashboard, local
from tests.support.dashboard import Browser, browser, elements, links

PAGES = ["/", "/list", "/queues", "/schedules", "/workers", "/doctor"]

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


@workflow
async def greet(ctx: PyWorkflow, name: str) -> str:
    return await ctx.step("say", lambda: _said(name))


async def _said(name):
    return f"hello {name}"


async def test_access_matrix(admin):
    workflow_id = (await admin.enqueue(greet, "ada")).id
    posts = [(f"/workflow/{workflow_id}/{each}", each, {}) for each in ("cancel", "resume", "rewind", "send")]
    posts += [
        ("/queues/pause", "pause", {}),
        ("/schedules/pause", "pause", {}),
        ("/schedules/trigger", "trigger", {}),
    ]
    posts += [("/bulk", each, {"action": each}) for each in ("cancel", "resume", "rewind", "send", "else")]
    allowed_by = {Access.READ: set(), frozenset(): set(), frozenset({"send", "pause"}): {"send", "pause"}}

    async def later(_request):
        return Access.READ

    for access, allowed in allowed_by.items():
        own = browser(admin, lambda _request, access=access: access)
        assert (await own.get("/")).status_code == 200
        for path, action, fields in posts:
            answer = await own.post(path, **fields)
            assert ("You may not" in answer.text) == (action not in allowed), (access, path, answer.text)
            assert answer.status_code == 403 or action in allowed
    assert (await browser(admin, later).get("/")).status_code == 200
    none = browser(admin, lambda _request: None)
    for path in [*PAGES, f"/workflow/{workflow_id}"]:
        assert (await none.get(path)).status_code == 403
        assert (await none.get(path, accept="text/event-stream")).status_code == 403
    assert (await none.client.post(f"/workflow/{workflow_id}/cancel")).status_code == 403
    assert (await admin.handle(workflow_id).status()) == "PENDING"
    for wrong, error in (("cancel", TypeError), (True, TypeError), ({"cancle"}, ValueError)):
        with pytest.raises(error):
            await browser(admin, lambda _request, wrong=wrong: wrong).get("/")


async def test_without_authorize_this_machine_alone_may_read(admin):
    app = dashboard(admin)
    own = Browser(app)
    assert "Read-only" in (await own.get("/")).text
    assert (await own.post("/queues/pause", name="default", do="pause")).status_code == 403
    for client, base, headers in (
        ("10.0.0.7", "http://localhost", {}),
        ("127.0.0.1", "http://evil.example", {}),
        ("127.0.0.1", "http://localhost", {"x-forwarded-for": "10.0.0.7"}),
    ):
        assert (await Browser(app, client=client, base=base).get("/", **headers)).status_code == 403
    acting = Browser(dashboard(admin, local(Access.ALL)), client="::1", base="http://[::1]:8080")
    assert "Read-only" not in (await acting.get("/")).text


async def test_a_form_of_another_site_is_refused(admin):
    workflow_id = (await admin.enqueue(greet, "ada")).id
    own, path = browser(admin), f"/workflow/{workflow_id}/cancel"
    refused = [
        ({}, {}),
        ({"origin": "http://evil.example"}, {}),
        ({"origin": "null"}, {}),
        ({"origin": "http://localhost", "sec-fetch-site": "cross-site"}, {}),
        ({"origin": "http://localhost", "sec-fetch-site": "same-site"}, {}),
        ({"origin": "http://localhost"}, {"token": ""}),
        ({"origin": "http://localhost"}, {"token": "x" * 32}),
    ]
    for headers, fields in refused:
        assert (await own.post(path, headers, **fields)).status_code == 403, (headers, fields)
    assert (await own.post(path, token=await own.token(), filler="x" * 2_100_000)).status_code == 403
    own.client.cookies.clear()
    assert (
        await own.client.post(path, data={"token": ""}, headers={"origin": "http://localhost"})
    ).status_code == 403
    assert (await own.get(path)).status_code == 405
    assert await admin.handle(workflow_id).status() == "PENDING"
    behind_a_proxy = {"origin": "https://ops.example", "x-forwarded-host": "ops.example"}
    assert (await own.post(path, behind_a_proxy)).status_code == 303
    assert await admin.handle(workflow_id).status() == "CANCELLED"


async def test_no_value_of_a_user_becomes_markup(admin, sql):
    await admin.schedule(EVIL, Cron("0 3 * * *"), greet, EVIL)
    options = {"key": EVIL, "queue": EVIL, "partition_key": EVIL, "unique": EVIL, "tags": (EVIL,)}
    ready = await admin.options(**options, attributes={EVIL: EVIL, "object": {"isoformat": 1}}).enqueue(
        greet, EVIL
    )
    await admin.set_queue(EVIL, concurrency=1, weights={EVIL: 2})
    run = await admin.run(greet, EVIL)
    assert run == f"hello {EVIL}"
    failed = ready.id + 1
    await sql.execute(
        "UPDATE pgqrs_workflows SET name = $1, status = 'ERROR', error = json_build_object('type', $1::text, 'message', $1::text) "
        "WHERE id = $2", EVIL, failed,
    )  # fmt: skip
    await sql.execute("UPDATE pgqrs_workflow_steps SET step_id = $1", EVIL)
    await sql.execute("INSERT INTO pgqrs_events VALUES ($2, $1, to_json($1::text), now())", EVIL, failed)
    own = browser(admin)
    found = 0
    pages = [*PAGES, f"/queue?name={quote(EVIL)}", f"/workflow/{ready.id}", f"/workflow/{failed}"]
    queries = [
        f"/list?{each}={quote(EVIL)}"
        for each in ("name", "key", "error", "since", "parent", "after", "attributes")
    ]
    for path in [*pages, *queries, f"/?notice={quote(EVIL)}"]:
        answer = await own.get(path)
        nonce = re.search(r"'nonce-([^']+)'", answer.headers["content-security-policy"])[1]
        for tag, attributes, inside in elements(answer.text):
            assert tag not in {"img", "style", "iframe"}, path
            assert not [each for each in attributes if each.startswith("on") or each == "style"], path
            if tag == "script":
                assert (attributes["nonce"], inside) == (nonce, ""), path
        found += answer.text.count("&lt;script&gt;")
    assert found > 25
    answer = await own.post("/bulk", action="cancel", name=EVIL)
    assert "<script>alert" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


async def test_sealed_values_are_hidden(dsn, sound):
    async with Admin(dsn, sound, codec=FernetCodec([Fernet.generate_key()])) as admin:
        assert await admin.run(greet, "secret") == "hello secret"
        (record,) = await admin.list_workflows()
        path = f"/workflow/{record.id}"
        own, open_ = browser(admin), browser(admin, show_sealed=True)
        for text in ((await own.get(path)).text, str(await own.json(path))):
            assert "secret" not in text
            assert "sealed" in text
        assert "hello secret" in (await open_.get(path)).text
    async with Admin(dsn, sound) as other:
        text = (await browser(other).get(path)).text
        assert "unreadable: CodecMismatchError" in text


async def test_pages_work_under_a_prefix(admin):
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.routing import Mount  # noqa: PLC0415

    handle = await admin.enqueue(greet, "ada")
    app = Starlette(routes=[Mount("/a/workflows", dashboard(admin, lambda _request: Access.ALL))])
    own, seen = Browser(app, "/a/workflows"), set()
    assert (await own.get("")).headers["location"].endswith("/a/workflows/")
    for path in ["/", "/list", f"/workflow/{handle.id}"]:
        answer = await own.get(path)
        urls = {answer.url.join(each) for each in links(answer.text)} - seen
        for url in urls:
            assert url.path.startswith("/a/workflows/"), (path, url)
            assert (await own.client.get(url)).status_code in {200, 405}, url
        seen |= urls
    answer = await own.post(f"/workflow/{handle.id}/cancel")
    assert answer.url.join(answer.headers["location"]).path == f"/a/workflows/workflow/{handle.id}"


def test_static_files_are_small():
    folder = Path(pgqrs.dashboard.__file__).parent / "static"
    assert 0 < sum(each.stat().st_size for each in folder.iterdir()) < 100_000
