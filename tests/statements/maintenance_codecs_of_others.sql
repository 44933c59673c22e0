SELECT DISTINCT pairs.name, first.codec
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($1::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($2::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.codec AS codec
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = pairs.queue
AND pgqrs.pgqrs_workflows.name = pairs.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT 100) AS first ON true
WHERE first.codec IS DISTINCT
FROM $3::TEXT
