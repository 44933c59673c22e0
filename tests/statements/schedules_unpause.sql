UPDATE pgqrs.pgqrs_schedules
SET next_at=$1::TIMESTAMP WITH TIME ZONE, paused_at=NULL
WHERE pgqrs.pgqrs_schedules.name = $2::TEXT
RETURNING pgqrs.pgqrs_schedules.name
