SELECT step.step_id
FROM pgqrs.pgqrs_workflow_steps AS step
JOIN pgqrs.pgqrs_workflow_steps AS undo ON undo.workflow_id = step.workflow_id
AND undo.step_id = pg_catalog.concat('undo/', step.step_id)
WHERE step.workflow_id = $1::BIGINT
AND coalesce(step.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $1::BIGINT
AND chosen.step_id = $2::TEXT), false)
AND step.step_id != $2::TEXT
ORDER BY step.started_at, step.step_id

LIMIT 1
