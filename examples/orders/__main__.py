"""Serves the shop: ``python -m examples.orders [--dsn postgresql://...] [--port 8000]``."""

from __future__ import annotations

import argparse
import logging

import uvicorn

from examples.orders.app import create_app

_WELCOME = """
The shop opens at http://{host}:{port}, and http://{host}:{port}/docs has a page to try it on. Order a lamp:

  curl -X POST -H 'content-type: application/json' -d '{{"customer": "Ada", "sku": "lamp"}}' http://{host}:{port}/orders
  curl http://{host}:{port}/orders
"""


def main() -> None:
    """Serve until SIGINT or SIGTERM; steps that execute then have ten seconds to end."""
    given = _arguments()
    logging.basicConfig(format="%(levelname)s:     %(message)s")
    for name in ("orders", "pgqrs"):
        logging.getLogger(name).setLevel(logging.INFO)
    if given.port:
        print(_WELCOME.format(host=given.host, port=given.port), flush=True)
    uvicorn.run(create_app(given.dsn, workers=given.workers), host=given.host, port=given.port)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.orders", description=__doc__)
    parser.add_argument("--dsn", help="the database; ORDERS_DSN or else embedded:// by default")
    parser.add_argument("--workers", type=int, default=1, help="how many workers run in it; 1 by default")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="8000 by default; 0 for any that is free")
    return parser.parse_args()


if __name__ == "__main__":
    main()
