SELECT pgqrs.pgqrs_workflows.key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.name = $1::TEXT
AND pgqrs.pgqrs_workflows.key = any($2::TEXT[])
