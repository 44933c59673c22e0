INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload) SELECT step.workflow_id, step.address, CASE WHEN coalesce(pg_catalog.starts_with(step.address, 'u/'), false) THEN pg_catalog.json_extract_path_text(step.output, 'key') ELSE pg_catalog.concat('~', CAST($1::BIGINT AS TEXT), '/', step.step_id) END AS anon_1, CASE WHEN coalesce(pg_catalog.starts_with(step.address, 'u/'), false) THEN coalesce(pg_catalog.json_extract_path_text(step.output, 'is_kept') = 'true', false) ELSE false END AS anon_2, step.output
FROM pgqrs.pgqrs_workflow_steps AS step
WHERE step.workflow_id = $2::BIGINT
AND step.status = $3::TEXT
AND (coalesce(pg_catalog.starts_with(step.address, 'm/'), false)
OR coalesce(pg_catalog.starts_with(step.address, 'u/'), false))
AND NOT (coalesce(step.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $2::BIGINT
AND chosen.step_id = $4::TEXT), false)
AND step.step_id != $4::TEXT)
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = step.address
AND pgqrs.pgqrs_messages.taken_at = step.completed_at
AND CAST(pgqrs.pgqrs_messages.payload AS TEXT) = CAST(step.output AS TEXT)))
ORDER BY step.completed_at DESC, step.step_id DESC
ON CONFLICT DO NOTHING
RETURNING pgqrs.pgqrs_messages.id
