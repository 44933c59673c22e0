INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec) SELECT enqueue_rows.workflow_id, enqueue_rows.name, CAST(enqueue_rows.input AS JSON) AS input, enqueue_rows.token, enqueue_rows.queue, enqueue_rows.priority, CASE WHEN (enqueue_rows.delay IS NULL) THEN now() END AS anon_1, now() + enqueue_rows.delay * interval '1 second' AS anon_2, enqueue_rows.timeout, enqueue_rows.key, enqueue_rows.codec
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], $3::TEXT[], $4::TEXT[], CAST($5::TEXT AS BIGINT[]), CAST($6::TEXT AS DOUBLE PRECISION[]), CAST($7::TEXT AS DOUBLE PRECISION[]), $8::TEXT[], $9::TEXT[], CAST($10::TEXT AS BIGINT[])) AS enqueue_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token)
ORDER BY enqueue_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueue' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch
