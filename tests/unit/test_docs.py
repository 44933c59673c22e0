"""The pages of docs/: their links, their snippets, and the names that they have to contain."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

import pgqrs
from pgqrs import Admin, PyWorkflow, Submitter, Worker, WorkflowHandle
from pgqrs.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
"""The pages outside of docs/ that tools/site.py adds to the site."""

PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / each for each in OUTSIDE)])
MODULES = (
    "pgqrs",
    "pgqrs.codecs",
    "pgqrs.errors",
    "pgqrs.testing",
    "pgqrs.models",
    "pgqrs.embedded",
    "pgqrs.alembic",
)
OBJECTS = {"admin": Admin, "ctx": PyWorkflow, "handle": WorkflowHandle, "worker": Worker, "submit": Submitter}
"""The names that have one meaning in all snippets."""

ROW = re.compile(r"^\| (?:— )?`(\w+)`", re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


def snippets(page: Path) -> Iterator[str]:
    """Yield the Python snippets of a page."""
    for indent, code in re.findall(r"^( *)```python\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield textwrap.dedent(indent and code) or code


def tree_of(snippet: str) -> ast.Module:
    """Parse a snippet: lines of a module, or lines of a function whose last one may end with a block's head."""
    for body in (snippet, f"{snippet.rstrip()}\n    ...\n"):
        for code in (body, "async def function():\n" + textwrap.indent(body, "    ")):
            try:
                return compile(code, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
            except SyntaxError:
                continue
    raise AssertionError(f"no Python:\n{snippet}")


def test_links_lead_to_files_and_headings():
    broken = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)\s#:]*)(?:#([^)\s]*))?\)", page.read_text()):
            to = (page.parent / target).resolve() if target else page
            if not to.exists() or (anchor and anchor not in anchors(to)):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def test_snippets_compile_and_name_what_there_is():
    wrong = []
    for page in PAGES:
        for node in (node for snippet in snippets(page) for node in ast.walk(tree_of(snippet))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pgqrs":
                module = importlib.import_module(node.module)
                wrong += [f"{page.name}: {each.name}" for each in node.names if not hasattr(module, each.name)]
            if isinstance(node, ast.Call):
                wrong += [f"{page.name}: {each}" for each in unknown_in(node)]
    assert wrong == []


def unknown_in(call: ast.Call) -> Iterator[str]:
    """Yield the method, or the keyword arguments, of a call of a public name or on a known object that there is not."""
    called: object = None
    if isinstance(call.func, ast.Name) and call.func.id in pgqrs.__all__:
        called = getattr(pgqrs, call.func.id)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        if (owner := OBJECTS.get(call.func.value.id)) is None:
            return
        called = getattr(owner, call.func.attr, None)
        if called is None:
            yield ast.unparse(call.func)
    if not callable(called):
        return
    parameters = inspect.signature(called).parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        known = {each.name for each in parameters}
        yield from (ast.unparse(call) for each in call.keywords if each.arg not in {*known, None})


def test_excerpts_are_parts_of_the_programs():
    found = 0
    for page in PAGES:
        for snippet in snippets(page):
            if (first := re.match(r"# (examples/\w+\.py)[^\n]*\n", snippet)) is None:
                continue
            code = (ROOT / first[1]).read_text()
            for part in re.split(r"\n\n+", snippet[first.end() :].strip()):
                assert any(textwrap.indent(part, " " * by) in code for by in (0, 4, 8, 12)), part
                found += 1
    assert found


@cache
def reference() -> dict[str, object]:
    """Return the objects whose docstrings the reference shows, by their names."""
    text = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    shown: dict[str, object] = {}
    for each in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        parent, _, name = each.rpartition(".")
        shown[each] = getattr(importlib.import_module(parent), name, None) or importlib.import_module(each)
    return shown


def test_every_public_name_is_in_the_reference():
    shown = {id(each) for each in reference().values()}
    missing = []
    for name in MODULES:
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", [] if name in reference() else [None]):
            value = getattr(module, each or "__name__")
            if id(value) not in shown and not {name, getattr(value, "__module__", None)} & reference().keys():
                missing.append(f"{name}.{each}")
    assert missing == []


def test_reference_names_no_hidden_module():
    """The site would show the module `pgqrs.workflow` in place of the decorator of this name."""
    assert [
        name for name, value in reference().items() if name in sys.modules and not inspect.ismodule(value)
    ] == []


def test_methods_in_the_text_exist():
    owners = {"admin": Admin, "Admin": Admin, "ctx": PyWorkflow}
    span = re.compile(rf"`(?:await )?({'|'.join(owners)})\.([a-z_]+)\b")
    found = [(page.name, *each) for page in PAGES for each in span.findall(page.read_text())]
    assert len(found) > 100
    assert [each for each in found if not hasattr(owners[each[1]], each[2])] == []


def test_every_error_has_a_line_and_a_place_in_the_tree():
    errors = {
        name
        for name, value in vars(pgqrs.errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(ROW.findall((DOCS / "errors.md").read_text())) == errors
    assert {name for name in errors if name not in pgqrs.errors.__doc__} == set()


def test_every_setting_is_listed():
    text = (DOCS / "settings.md").read_text()
    code = "\n".join(
        each.read_text()
        for each in (*(ROOT / "pgqrs").rglob("*.py"), ROOT / "pytest_pgqrs.py", ROOT / "migrations" / "env.py")
    )
    variables = set(re.findall(r"\bPGQRS_[A-Z]+(?:_[A-Z]+)*\b", code))
    arguments = {each for owner in (Admin, Worker) for each in inspect.signature(owner).parameters}
    assert {each for each in variables | arguments if f"`{each}`" not in text} == set()


def test_every_command_is_listed():
    cells = "".join(re.findall(r"^\|([^|]*)\|", (DOCS / "command-line.md").read_text(), re.MULTILINE))
    assert {name for name in main.commands if not re.search(rf"`(?:pgqrs )?{name}\b", cells)} == set()


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def test_every_page_is_in_the_navigation_and_on_the_list():
    def pages_of(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for each in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            yield from pages_of(each)

    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    added = {"overview.md", "changelog.md", "contributing.md", "security.md", "benchmark.md"}
    assert sorted(pages_of(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"])) == sorted(pages | added)
    text = (DOCS / "README.md").read_text()
    assert {page for page in pages if f"({page}" not in text} == {"README.md"}
