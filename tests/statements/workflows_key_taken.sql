SELECT pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.key, holder.id
FROM pgqrs.pgqrs_workflows
LEFT OUTER
JOIN pgqrs.pgqrs_workflows AS holder ON holder.name = pgqrs.pgqrs_workflows.name
AND holder.key = pgqrs.pgqrs_workflows.key
AND (holder.completed_at IS NULL
OR NOT holder.releases_key)
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND pgqrs.pgqrs_workflows.key IS NOT NULL
AND NOT (pgqrs.pgqrs_workflows.completed_at IS NULL
OR NOT pgqrs.pgqrs_workflows.releases_key)
