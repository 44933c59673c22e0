UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END, completed_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'CANCELLED') THEN now() END, updated_at=now(), error=CAST(leave_held.error AS JSON), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'PENDING') THEN now() END, due_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'WAITING') THEN now() + leave_held.wait * interval '1 second' END, executor=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'RUNNING') THEN '00000000-0000-0000-0000-000000000000'::uuid END, attempts=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'WAITING'
AND leave_held.error IS NOT NULL
AND leave_held.retries IS NULL) THEN pgqrs.pgqrs_workflows.attempts WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'WAITING'
OR CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'PENDING'
AND (SELECT 1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_workflow_steps.epoch = pgqrs.pgqrs_workflows.epoch
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'

LIMIT 1) IS NOT NULL) THEN 0 WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END = 'PENDING') THEN greatest(pgqrs.pgqrs_workflows.attempts - 1, 0) ELSE pgqrs.pgqrs_workflows.attempts END, retries=coalesce(leave_held.retries, pgqrs.pgqrs_workflows.retries), deadline=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE leave_held.status END != 'CANCELLED') THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=NULL
FROM (SELECT leave_rows.workflow_id AS workflow_id, leave_rows.claim AS claim, leave_rows.status AS status, leave_rows.wait AS wait, leave_rows.error AS error, leave_rows.retries AS retries, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::DOUBLE PRECISION[], $5::TEXT[], $6::BIGINT[]) AS leave_rows(workflow_id, claim, status, wait, error, retries)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = leave_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS leave_held
WHERE pgqrs.pgqrs_workflows.id = leave_held.workflow_id
AND leave_held.current_claim = leave_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
AND pgqrs.pgqrs_workflows.executor IS DISTINCT
FROM '00000000-0000-0000-0000-000000000000'::uuid
RETURNING 'leave' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS step_id, pgqrs.pgqrs_workflows.epoch AS epoch
