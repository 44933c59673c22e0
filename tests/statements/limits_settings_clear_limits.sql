UPDATE pgqrs.pgqrs_queues
SET concurrency=NULL, partition_concurrency=NULL, rate=NULL, partition_rate=NULL, weights=NULL, holds='running', ordered_at=NULL, fair=true
WHERE pgqrs.pgqrs_queues.name = $1::TEXT
