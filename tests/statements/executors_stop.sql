UPDATE pgqrs.pgqrs_executors
SET stopped_at=pg_catalog.now()
WHERE pgqrs.pgqrs_executors.id = $1::UUID
