SELECT asked_rows.workflow_id, asked_rows.step_id, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.epoch AS epoch, pgqrs.pgqrs_workflows.claim AS claim, pgqrs.pgqrs_workflows.token AS token, pgqrs.pgqrs_workflows.cancel_interrupts AS cancels, pgqrs.pgqrs_workflows.executor AS executor, CAST(pgqrs.pgqrs_workflows.output AS TEXT) AS output, pgqrs.pgqrs_workflows.codec AS codec, pgqrs.pgqrs_workflow_steps.status AS step_status, pgqrs.pgqrs_workflow_steps.epoch AS step_epoch, CAST(pgqrs.pgqrs_workflow_steps.output AS TEXT) AS step_output, CAST(pgqrs.pgqrs_workflow_steps.error AS TEXT) AS step_error, pgqrs.pgqrs_workflow_steps.fingerprint AS step_fingerprint, pgqrs.pgqrs_workflow_steps.failures AS step_failures, pgqrs.pgqrs_workflow_steps.address AS step_address
FROM unnest($1::BIGINT[], $2::TEXT[]) AS asked_rows(workflow_id, step_id)
LEFT OUTER
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = asked_rows.workflow_id
LEFT OUTER
JOIN pgqrs.pgqrs_workflow_steps ON pgqrs.pgqrs_workflow_steps.workflow_id = asked_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = asked_rows.step_id
