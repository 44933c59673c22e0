UPDATE pgqrs.pgqrs_workflows
SET updated_at=now(), unique_value=NULL, unique_until_start=NULL
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND pgqrs.pgqrs_workflows.unique_value = $2::TEXT
