UPDATE pgqrs.pgqrs_messages
SET is_new=true, taken_at=NULL
WHERE pgqrs.pgqrs_messages.id IN (SELECT pgqrs.pgqrs_messages.id
FROM pgqrs.pgqrs_messages
JOIN pgqrs.pgqrs_workflow_steps AS step ON pgqrs.pgqrs_messages.address = step.address
AND pgqrs.pgqrs_messages.taken_at = step.completed_at
AND CAST(pgqrs.pgqrs_messages.payload AS TEXT) = CAST(step.output AS TEXT)
WHERE step.workflow_id = $1::BIGINT
AND step.status = $2::TEXT
AND (coalesce(pg_catalog.starts_with(step.address, 'm/'), false)
OR coalesce(pg_catalog.starts_with(step.address, 'u/'), false))
AND NOT (coalesce(step.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $1::BIGINT
AND chosen.step_id = $3::TEXT), false)
AND step.step_id != $3::TEXT))
