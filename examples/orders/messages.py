"""What goes over the wire."""

from __future__ import annotations

from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from pgqrs import StepStatus, WorkflowStatus


class NewOrder(BaseModel):
    """What a customer asks for.

    A client that chooses the id can repeat the request until it hears an answer, and orders once.
    """

    id: UUID = Field(default_factory=uuid4)
    customer: str = Field(min_length=1, max_length=200)
    sku: str
    quantity: int = Field(default=1, ge=1, le=100)


class Placed(BaseModel):
    """The id of an order that was placed, now or before."""

    id: UUID


class OrderState(BaseModel):
    """An order, how its workflow stands, and the steps that this has taken."""

    id: UUID
    customer: str
    sku: str
    quantity: int
    cents: int
    is_cancelled: bool
    tracking: str | None
    workflow: WorkflowStatus
    steps: dict[str, StepStatus]
