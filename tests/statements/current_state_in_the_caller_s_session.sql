SELECT asked_rows.workflow_id, asked_rows.step_id, pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.epoch, pgqrs.pgqrs_workflows.claim, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.cancel_interrupts, pgqrs.pgqrs_workflows.executor, CAST(pgqrs.pgqrs_workflows.output AS TEXT) AS output, pgqrs.pgqrs_workflows.codec, pgqrs.pgqrs_workflow_steps.status AS status_1, pgqrs.pgqrs_workflow_steps.epoch AS epoch_1, CAST(pgqrs.pgqrs_workflow_steps.output AS TEXT) AS output__1, CAST(pgqrs.pgqrs_workflow_steps.error AS TEXT) AS error, pgqrs.pgqrs_workflow_steps.fingerprint, pgqrs.pgqrs_workflow_steps.failures
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[]) AS asked_rows(workflow_id, step_id)
LEFT OUTER
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = asked_rows.workflow_id
LEFT OUTER
JOIN pgqrs.pgqrs_workflow_steps ON pgqrs.pgqrs_workflow_steps.workflow_id = asked_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = asked_rows.step_id
