WITH gone AS
(DELETE
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = $2::BIGINT
AND NOT (coalesce(pgqrs.pgqrs_workflow_steps.completed_at <= (SELECT chosen.started_at
FROM pgqrs.pgqrs_workflow_steps AS chosen
WHERE chosen.workflow_id = $2::BIGINT
AND chosen.step_id = $3::TEXT), false)
AND pgqrs.pgqrs_workflow_steps.step_id != $3::TEXT)
RETURNING pgqrs.pgqrs_workflow_steps.workflow_id, pgqrs.pgqrs_workflow_steps.step_id, pgqrs.pgqrs_workflow_steps.status, pgqrs.pgqrs_workflow_steps.epoch, pgqrs.pgqrs_workflow_steps.reopened, pgqrs.pgqrs_workflow_steps.started_at, pgqrs.pgqrs_workflow_steps.completed_at, pgqrs.pgqrs_workflow_steps.output, pgqrs.pgqrs_workflow_steps.error, pgqrs.pgqrs_workflow_steps.fingerprint, pgqrs.pgqrs_workflow_steps.failures, pgqrs.pgqrs_workflow_steps.address)
 INSERT INTO pgqrs.pgqrs_set_aside_steps (workflow_id, step_id, status, epoch, reopened, started_at, completed_at, output, error, fingerprint, failures, address, rewind) SELECT gone.workflow_id, gone.step_id, gone.status, gone.epoch, gone.reopened, gone.started_at, gone.completed_at, gone.output, gone.error, gone.fingerprint, gone.failures, gone.address, $1::BIGINT AS anon_1
FROM gone
