"""A shop: `POST /orders` writes an order and enqueues the workflow that charges and ships it, at once.

Run it with ``make orders``, or, where FastAPI and uvicorn are installed::

    python -m examples.orders                                     # on a PostgreSQL of its own
    python -m examples.orders --dsn postgresql://localhost/shop   # on yours
    ORDERS_DSN=postgresql://localhost/shop uvicorn --factory examples.orders.app:create_app

and order something::

    curl -X POST -H 'content-type: application/json' -d '{"customer": "Ada", "sku": "lamp"}' localhost:8000/orders
    curl localhost:8000/orders

Kill it with SIGKILL whenever you like and start it again, or start two of them: each order is charged once and
delivered once.

`models` has the application's tables, `carrier` stands for somebody else's service, `workflow` is what becomes of
an order, `shop` what can be asked of it, `messages` how that looks in JSON, and `app` serves it.
"""
