UPDATE pgqrs.pgqrs_schedules
SET paused_at=coalesce(pgqrs.pgqrs_schedules.paused_at, now())
WHERE pgqrs.pgqrs_schedules.name = $1::TEXT
RETURNING pgqrs.pgqrs_schedules.name
