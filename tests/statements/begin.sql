INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, executor, status, epoch, claim, started_at, timeout, deadline, codec) SELECT begin_rows.workflow_id, begin_rows.name, CAST(begin_rows.input AS JSON) AS input, begin_rows.token, begin_rows.executor, 'RUNNING', 1, begin_rows.token AS token__1, now() AS now_1, begin_rows.timeout, now() + begin_rows.timeout * interval '1 second' AS anon_1, begin_rows.codec
FROM unnest($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::UUID[], $5::DOUBLE PRECISION[], $6::TEXT[], $7::BIGINT[]) AS begin_rows(workflow_id, name, input, executor, timeout, codec, token)
ORDER BY begin_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'begin' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS step_id, pgqrs.pgqrs_workflows.epoch AS epoch
