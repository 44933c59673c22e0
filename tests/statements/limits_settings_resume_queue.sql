UPDATE pgqrs.pgqrs_queues
SET paused_at=NULL
WHERE pgqrs.pgqrs_queues.name = $1::TEXT
