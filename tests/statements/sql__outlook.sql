SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.epoch, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.ready_at IS NOT NULL
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_waits, pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_waits.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_messages.address = pgqrs.pgqrs_waits.address
AND pgqrs.pgqrs_messages.taken_at IS NULL)) AS anon_1, pgqrs.pgqrs_workflows.started_at IS NULL AS anon_2, CAST(EXTRACT(epoch
FROM least(pgqrs.pgqrs_workflows.due_at, pgqrs.pgqrs_workflows.deadline) - now()) AS DOUBLE PRECISION) AS anon_3, CAST(pgqrs.pgqrs_queues.rate AS TEXT) AS rate, CAST(EXTRACT(epoch
FROM pgqrs_rates_1.free_at - now()) AS DOUBLE PRECISION) AS anon_4, CAST(pgqrs.pgqrs_queues.partition_rate AS TEXT) AS partition_rate, CAST(EXTRACT(epoch
FROM pgqrs_rates_2.free_at - now()) AS DOUBLE PRECISION) AS anon_5
FROM pgqrs.pgqrs_workflows
LEFT OUTER
JOIN pgqrs.pgqrs_queues ON pgqrs.pgqrs_queues.name = pgqrs.pgqrs_workflows.queue
LEFT OUTER
JOIN pgqrs.pgqrs_rates AS pgqrs_rates_1 ON pgqrs_rates_1.queue = pgqrs.pgqrs_workflows.queue
AND pgqrs_rates_1.partition_key = $1::TEXT COLLATE "C"
LEFT OUTER
JOIN pgqrs.pgqrs_rates AS pgqrs_rates_2 ON pgqrs_rates_2.queue = pgqrs.pgqrs_workflows.queue
AND pgqrs_rates_2.partition_key = pgqrs.pgqrs_workflows.partition_key
WHERE pgqrs.pgqrs_workflows.status IN (__[POSTCOMPILE_status_1])
