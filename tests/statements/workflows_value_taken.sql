SELECT pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.unique_value, holder.id
FROM pgqrs.pgqrs_workflows
LEFT OUTER
JOIN pgqrs.pgqrs_workflows AS holder ON holder.name = pgqrs.pgqrs_workflows.name
AND holder.unique_value = pgqrs.pgqrs_workflows.unique_value
AND holder.unique_value IS NOT NULL
AND holder.completed_at IS NULL
AND (holder.epoch = 0
OR NOT holder.unique_until_start)
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND pgqrs.pgqrs_workflows.unique_until_start IS false
AND NOT (pgqrs.pgqrs_workflows.unique_value IS NOT NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
AND (pgqrs.pgqrs_workflows.epoch = 0
OR NOT pgqrs.pgqrs_workflows.unique_until_start))
