"""Serves the shop: ``python -m examples.orders [--dsn postgresql://...] [--port 8000]``."""

from __future__ import annotations

import argparse
import logging

import uvicorn

from examples.orders.app import create_app

_WELCOME = """
The shop opens at http://{host}:{port}; try it at http://{host}:{port}/docs. Order a lamp, or a chandelier, which
needs an approval:

  curl -X POST -H 'content-type: application/json' -d '{{"customer": "Ada", "sku": "lamp"}}' http://{host}:{port}/orders
  curl -X POST -H 'content-type: application/json' -d '{{"is_approved": true}}' http://{host}:{port}/orders/ID/decision
  curl -X POST http://{host}:{port}/orders/ID/cancel
  curl http://{host}:{port}/orders
"""


def main() -> None:
    """Serve until SIGINT or SIGTERM; executing steps then have ten seconds to end."""
    given = _arguments()
    logging.basicConfig(format="%(levelname)s:     %(message)s")
    logging.getLogger("pgqrs").setLevel(logging.INFO)
    if given.port:
        print(_WELCOME.format(host=given.host, port=given.port), flush=True)
    app = create_app(given.dsn, workers=given.workers, cancel_within=given.cancel_within)
    uvicorn.run(app, host=given.host, port=given.port)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.orders", description=__doc__)
    parser.add_argument("--dsn", help="the database; ORDERS_DSN or else embedded:// by default")
    parser.add_argument("--workers", type=int, default=1, help="the number of workers; 1 by default")
    parser.add_argument(
        "--cancel-within",
        type=float,
        default=20,
        help="seconds for which a paid order can be cancelled; 20 by default",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="8000 by default; 0 for any free port")
    return parser.parse_args()


if __name__ == "__main__":
    main()
