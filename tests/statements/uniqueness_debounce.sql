INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, timeout, key, codec, partition_key, unique_value, unique_until_start, ready_at, due_at) SELECT unique_rows.workflow_id, unique_rows.name, CAST(unique_rows.input AS JSON) AS input, unique_rows.token, unique_rows.queue, unique_rows.priority, unique_rows.timeout, unique_rows.key, unique_rows.codec, unique_rows.partition_key, unique_rows.unique_value, unique_rows.until_start, CASE WHEN (now() >= least(now() + $1::FLOAT * interval '1 second', now() + $2::FLOAT * interval '1 second')) THEN now() END AS anon_1, CASE WHEN (now() < least(now() + $1::FLOAT * interval '1 second', now() + $2::FLOAT * interval '1 second')) THEN least(now() + $1::FLOAT * interval '1 second', now() + $2::FLOAT * interval '1 second') END AS anon_2
FROM unnest(CAST($3::TEXT AS BIGINT[]), $4::TEXT[], $5::TEXT[], $6::TEXT[], CAST($7::TEXT AS BIGINT[]), CAST($8::TEXT AS DOUBLE PRECISION[]), CAST($9::TEXT AS DOUBLE PRECISION[]), $10::TEXT[], $11::TEXT[], CAST($12::TEXT AS BIGINT[]), $13::TEXT[], $14::TEXT[], CAST($15::TEXT AS BOOLEAN[])) AS unique_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, unique_value, until_start)
WHERE (SELECT 1
FROM pgqrs.pgqrs_workflows AS other
WHERE other.id = unique_rows.workflow_id

LIMIT 1) IS NULL
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS started
WHERE started.name = unique_rows.name
AND started.unique_value = unique_rows.unique_value
AND started.unique_value IS NOT NULL
AND started.completed_at IS NULL
AND (started.epoch = 0
OR NOT started.unique_until_start)
AND started.epoch != 0

LIMIT 1) IS NULL
ORDER BY unique_rows.unique_value
ON CONFLICT (name, unique_value)
WHERE unique_value IS NOT NULL
AND completed_at IS NULL
AND (epoch = 0
OR NOT unique_until_start)
DO UPDATE
SET updated_at = now(), input = excluded.input, queue = excluded.queue, priority = excluded.priority, ready_at = CASE WHEN (now() >= least(now() + $1::FLOAT * interval '1 second', pgqrs.pgqrs_workflows.created_at + $2::FLOAT * interval '1 second')) THEN now() END, due_at = CASE WHEN (now() < least(now() + $1::FLOAT * interval '1 second', pgqrs.pgqrs_workflows.created_at + $2::FLOAT * interval '1 second')) THEN least(now() + $1::FLOAT * interval '1 second', pgqrs.pgqrs_workflows.created_at + $2::FLOAT * interval '1 second') END, timeout = excluded.timeout, codec = excluded.codec, partition_key = excluded.partition_key
WHERE pgqrs.pgqrs_workflows.epoch = 0
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.unique_value, pgqrs.pgqrs_workflows.due_at, pgqrs.pgqrs_workflows.ready_at IS NOT NULL AS is_ready
