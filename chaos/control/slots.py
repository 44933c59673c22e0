"""The ledger of the slots, which a trigger writes in the transactions that take and leave them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import BigInteger, Boolean, Double, Identity, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from chaos.work import Base


class Slot(Base):
    """A slot in use: the run and its queue, and the seconds at which it was taken and left.

    `asked_at` is the beginning of the claim, and `is_start` tells the first claim of a workflow. `is_lost` tells a
    slot that was taken from its process.
    """

    __tablename__ = "chaos_slots"

    id: Mapped[int] = mapped_column(BigInteger(), Identity(), primary_key=True)
    workflow_id: Mapped[int] = mapped_column(BigInteger(), index=True)
    epoch: Mapped[int] = mapped_column(BigInteger())
    queue: Mapped[str | None] = mapped_column(Text())
    key: Mapped[str | None] = mapped_column(Text())
    is_start: Mapped[bool] = mapped_column(Boolean())
    asked_at: Mapped[float] = mapped_column(Double())
    taken_at: Mapped[float] = mapped_column(Double())
    left_at: Mapped[float | None] = mapped_column(Double())
    is_lost: Mapped[bool | None] = mapped_column(Boolean())


TRIGGER = (
    text("""
    CREATE FUNCTION chaos_note_slot() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.executor IS NOT NULL AND (NEW.executor IS NULL OR NEW.epoch <> OLD.epoch) THEN
            UPDATE public.chaos_slots
            SET left_at = extract(epoch FROM clock_timestamp()), is_lost = NEW.epoch <> OLD.epoch
            WHERE workflow_id = OLD.id AND left_at IS NULL;
        END IF;
        IF NEW.executor IS NOT NULL AND (OLD.executor IS NULL OR NEW.epoch <> OLD.epoch) THEN
            INSERT INTO public.chaos_slots (workflow_id, epoch, queue, key, is_start, asked_at, taken_at)
            VALUES (
                NEW.id, NEW.epoch, NEW.queue, NEW.partition_key, OLD.started_at IS NULL,
                extract(epoch FROM transaction_timestamp()), extract(epoch FROM clock_timestamp())
            );
        END IF;
        RETURN NULL;
    END $$
    """),
    text("""
    CREATE TRIGGER chaos_note_slot AFTER UPDATE ON pgqrs.pgqrs_workflows FOR EACH ROW
    WHEN (OLD.executor IS DISTINCT FROM NEW.executor OR OLD.epoch <> NEW.epoch)
    EXECUTE FUNCTION chaos_note_slot()
    """),
)
"""The statements that make the trigger."""


class Taken(NamedTuple):
    """A row of the slots."""

    workflow_id: int
    epoch: int
    queue: str | None
    key: str | None
    is_start: bool
    asked_at: float
    taken_at: float
    left_at: float | None
    is_lost: bool | None
