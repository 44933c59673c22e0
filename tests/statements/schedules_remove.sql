DELETE
FROM pgqrs.pgqrs_schedules
WHERE pgqrs.pgqrs_schedules.name = $1::TEXT
RETURNING pgqrs.pgqrs_schedules.name
