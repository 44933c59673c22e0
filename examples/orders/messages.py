"""The requests and answers of the application."""

from __future__ import annotations

from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from pgqrs import WorkflowStatus


class NewOrder(BaseModel):
    """The order of a customer.

    A client that chooses the id can repeat the request until it gets an answer, and orders once.
    """

    id: UUID = Field(default_factory=uuid4)
    customer: str = Field(min_length=1, max_length=200)
    sku: str
    quantity: int = Field(default=1, ge=1, le=100)


class Placed(BaseModel):
    """The id of an order that is in the tables now."""

    id: UUID


class Decision(BaseModel):
    """The decision about an order that needs an approval."""

    is_approved: bool


class OrderState(BaseModel):
    """An order, its progress, and the tracking numbers of its parcels."""

    id: UUID
    customer: str
    sku: str
    quantity: int
    cents: int
    is_cancelled: bool
    is_refunded: bool
    tracking: list[str]
    workflow: WorkflowStatus
    progress: str | None
