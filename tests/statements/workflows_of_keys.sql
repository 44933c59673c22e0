SELECT pgqrs.pgqrs_workflows.key, pgqrs.pgqrs_workflows.id AS workflow_id, CASE WHEN (pgqrs.pgqrs_workflows.generation IS NULL) THEN CAST(pgqrs.pgqrs_workflows.input AS TEXT) END AS input, pgqrs.pgqrs_workflows.codec, pgqrs.pgqrs_workflows.token
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.name = $1::TEXT
AND pgqrs.pgqrs_workflows.key = any($2::TEXT[])
AND (pgqrs.pgqrs_workflows.completed_at IS NULL
OR NOT pgqrs.pgqrs_workflows.releases_key)
