DELETE
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = $1::TEXT
AND pgqrs.pgqrs_queues.fair
AND pgqrs.pgqrs_queues.concurrency IS NULL
AND pgqrs.pgqrs_queues.partition_concurrency IS NULL
AND pgqrs.pgqrs_queues.rate IS NULL
AND pgqrs.pgqrs_queues.partition_rate IS NULL
AND pgqrs.pgqrs_queues.weights IS NULL
AND pgqrs.pgqrs_queues.paused_at IS NULL
