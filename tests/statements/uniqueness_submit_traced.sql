INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, timeout, key, codec, partition_key, unique_value, unique_until_start, ready_at, due_at, trace) SELECT unique_rows.workflow_id, unique_rows.name, CAST(unique_rows.input AS JSON) AS input, unique_rows.token, unique_rows.queue, unique_rows.priority, unique_rows.timeout, unique_rows.key, unique_rows.codec, unique_rows.partition_key, unique_rows.unique_value, unique_rows.until_start, CASE WHEN (unique_rows.delay IS NULL) THEN now() END AS anon_1, now() + unique_rows.delay * interval '1 second' AS anon_2, $1::TEXT AS anon_3
FROM unnest(CAST($2::TEXT AS BIGINT[]), $3::TEXT[], $4::TEXT[], $5::TEXT[], CAST($6::TEXT AS BIGINT[]), CAST($7::TEXT AS DOUBLE PRECISION[]), CAST($8::TEXT AS DOUBLE PRECISION[]), $9::TEXT[], $10::TEXT[], CAST($11::TEXT AS BIGINT[]), $12::TEXT[], $13::TEXT[], CAST($14::TEXT AS BOOLEAN[])) AS unique_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, unique_value, until_start)
WHERE (SELECT 1
FROM pgqrs.pgqrs_workflows AS other
WHERE other.id = unique_rows.workflow_id

LIMIT 1) IS NULL
ORDER BY unique_rows.unique_value
ON CONFLICT DO NOTHING
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.unique_value, pgqrs.pgqrs_workflows.due_at, pgqrs.pgqrs_workflows.ready_at IS NOT NULL AS is_ready
