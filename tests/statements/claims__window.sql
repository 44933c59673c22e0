SELECT of_pair.id, of_pair.priority, of_pair.size
FROM (SELECT queues.queue AS queue, names.name AS name
FROM pg_catalog.unnest($1::TEXT[]) AS queues(queue)
JOIN pg_catalog.unnest($2::TEXT[]) AS names(name) ON true) AS pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.priority AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = pairs.queue
AND pgqrs.pgqrs_workflows.name = pairs.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $3::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $4::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($5::BIGINT[])
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT $6::BIGINT) AS of_pair ON true
ORDER BY of_pair.priority DESC, of_pair.id

LIMIT $6::BIGINT
