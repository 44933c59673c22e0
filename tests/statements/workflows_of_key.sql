SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.name = $1::TEXT
AND pgqrs.pgqrs_workflows.key = $2::TEXT
AND (pgqrs.pgqrs_workflows.completed_at IS NULL
OR NOT pgqrs.pgqrs_workflows.releases_key)
