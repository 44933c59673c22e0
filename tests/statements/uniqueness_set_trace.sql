UPDATE pgqrs.pgqrs_workflows
SET trace=$1::TEXT
WHERE pgqrs.pgqrs_workflows.id = any(CAST($2::TEXT AS BIGINT[]))
