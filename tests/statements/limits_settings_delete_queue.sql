DELETE
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = $1::TEXT
