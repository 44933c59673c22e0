"""A shop: `POST /orders` writes an order and enqueues the workflow that fulfils it, in one transaction.

Run it with ``make orders``, or, where FastAPI and uvicorn are installed::

    python -m examples.orders                                     # with a PostgreSQL server of its own
    python -m examples.orders --dsn postgresql://localhost/shop   # with your server
    ORDERS_DSN=postgresql://localhost/shop uvicorn --factory examples.orders.app:create_app

Place orders, approve one, cancel one::

    curl -X POST -H 'content-type: application/json' -d '{"customer": "Ada", "sku": "lamp"}' localhost:8000/orders
    curl -X POST -H 'content-type: application/json' -d '{"is_approved": true}' localhost:8000/orders/ID/decision
    curl -X POST localhost:8000/orders/ID/cancel
    curl localhost:8000/orders

An expensive order waits for a decision. A paid order can be cancelled for some seconds, and is then refunded. Each
parcel is a child of the order's workflow. Kill the process with SIGKILL and start it again, or start two of them:
each order is charged once, and each parcel is delivered once.

`models` has the application's tables, `carrier` is an external service, `workflow` fulfils an order, `shop` has
the operations, `messages` their JSON, and `app` serves them.
"""
