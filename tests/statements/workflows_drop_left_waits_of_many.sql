DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT CAST($1::TEXT AS BIGINT[]) AS anon_1), '{}'))
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = pgqrs.pgqrs_waits.workflow_id
AND pgqrs.pgqrs_workflows.status = $2::TEXT))
