UPDATE pgqrs.pgqrs_workflows
SET parent_step=pg_catalog.concat('set-aside/', CAST($1::BIGINT AS TEXT), '//', pgqrs.pgqrs_workflows.parent_step)
WHERE pgqrs.pgqrs_workflows.parent_id = $2::BIGINT
AND CASE WHEN ((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $2::BIGINT) IS NULL) THEN pg_catalog.strpos(pgqrs.pgqrs_workflows.parent_step, '//') = 0 ELSE pg_catalog.starts_with(pgqrs.pgqrs_workflows.parent_step, pg_catalog.concat((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $2::BIGINT), '//')) END
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflow_steps AS step
WHERE step.workflow_id = $2::BIGINT
AND CASE WHEN ((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $2::BIGINT) IS NULL) THEN step.step_id ELSE pg_catalog.concat(pg_catalog.concat((SELECT CAST(parent.generation AS TEXT) AS generation
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = $2::BIGINT), '//'), step.step_id) END = pgqrs.pgqrs_workflows.parent_step
AND coalesce(step.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $2::BIGINT
AND chosen.step_id = $3::TEXT), false)
AND step.step_id != $3::TEXT))
AND NOT (pgqrs.pgqrs_workflows.key IS NOT NULL
AND (pgqrs.pgqrs_workflows.completed_at IS NULL
OR NOT pgqrs.pgqrs_workflows.releases_key))
