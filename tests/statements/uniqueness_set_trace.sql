UPDATE pgqrs.pgqrs_workflows
SET trace=$1::TEXT
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($2::TEXT AS BIGINT[]) AS anon_1), '{}'))
