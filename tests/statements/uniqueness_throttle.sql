WITH last AS MATERIALIZED
(SELECT pgqrs.pgqrs_throttles.unique_value AS unique_value, CASE WHEN (run.id IS NULL) THEN pgqrs.pgqrs_throttles.free_at WHEN (run.epoch = 0
AND run.completed_at IS NOT NULL) THEN pgqrs.pgqrs_throttles.starts_at WHEN (run.epoch = 0) THEN clock_timestamp() + $1::FLOAT * interval '1 second' WHEN (run.started_at IS NOT NULL
AND run.generation IS NULL) THEN run.started_at + $1::FLOAT * interval '1 second' ELSE pgqrs.pgqrs_throttles.free_at END AS next_at
FROM unnest(CAST($2::TEXT AS BIGINT[]), $3::TEXT[], $4::TEXT[], $5::TEXT[], CAST($6::TEXT AS BIGINT[]), CAST($7::TEXT AS DOUBLE PRECISION[]), CAST($8::TEXT AS DOUBLE PRECISION[]), $9::TEXT[], $10::TEXT[], CAST($11::TEXT AS BIGINT[]), $12::TEXT[], $13::TEXT[], CAST($14::TEXT AS BOOLEAN[])) AS unique_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, unique_value, until_start)
JOIN pgqrs.pgqrs_throttles ON pgqrs.pgqrs_throttles.name = unique_rows.name
AND pgqrs.pgqrs_throttles.unique_value = unique_rows.unique_value
LEFT OUTER
JOIN pgqrs.pgqrs_workflows AS run ON run.id = pgqrs.pgqrs_throttles.workflow_id),
made AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, timeout, key, codec, partition_key, unique_value, unique_until_start, ready_at, due_at) SELECT unique_rows.workflow_id AS workflow_id, unique_rows.name AS name, CAST(unique_rows.input AS JSON) AS input, unique_rows.token AS token, unique_rows.queue AS queue, unique_rows.priority AS priority, unique_rows.timeout AS timeout, unique_rows.key AS key, unique_rows.codec AS codec, unique_rows.partition_key AS partition_key, unique_rows.unique_value AS unique_value, unique_rows.until_start AS until_start, CASE WHEN (last.next_at <= now()) THEN now() END AS anon_1, CASE WHEN (last.next_at > now()) THEN last.next_at END AS anon_2
FROM unnest(CAST($2::TEXT AS BIGINT[]), $3::TEXT[], $4::TEXT[], $5::TEXT[], CAST($6::TEXT AS BIGINT[]), CAST($7::TEXT AS DOUBLE PRECISION[]), CAST($8::TEXT AS DOUBLE PRECISION[]), $9::TEXT[], $10::TEXT[], CAST($11::TEXT AS BIGINT[]), $12::TEXT[], $13::TEXT[], CAST($14::TEXT AS BOOLEAN[])) AS unique_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, unique_value, until_start)
JOIN last ON last.unique_value = unique_rows.unique_value
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
SET updated_at = now(), input = excluded.input, queue = excluded.queue, priority = excluded.priority, timeout = excluded.timeout, codec = excluded.codec, partition_key = excluded.partition_key
WHERE pgqrs.pgqrs_workflows.epoch = 0
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.unique_value, pgqrs.pgqrs_workflows.due_at, pgqrs.pgqrs_workflows.ready_at IS NOT NULL AS is_ready),
noted AS
(UPDATE pgqrs.pgqrs_throttles
SET workflow_id=made.id, starts_at=coalesce(made.due_at, now()), free_at=(coalesce(made.due_at, now()) + $1::FLOAT * interval '1 second')
FROM made
WHERE pgqrs.pgqrs_throttles.name = made.name
AND pgqrs.pgqrs_throttles.unique_value = made.unique_value
AND pgqrs.pgqrs_throttles.workflow_id IS DISTINCT
FROM made.id)
 SELECT made.id, made.token, made.name, made.unique_value, made.due_at, made.is_ready
FROM made
