INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, codec) SELECT create_rows.workflow_id, create_rows.name, CAST(create_rows.input AS JSON) AS input, create_rows.token, create_rows.codec
FROM unnest($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::BIGINT[]) AS create_rows(workflow_id, name, input, codec, token)
ORDER BY create_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'create' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS step_id, pgqrs.pgqrs_workflows.epoch AS epoch
