UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END, completed_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'CANCELLED') THEN now() END, updated_at=now(), error=CAST($2::TEXT AS JSON), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'PENDING'
AND NOT ($1::TEXT = 'WAITING'
AND $2::TEXT IS NOT NULL
AND $3::BIGINT IS NULL)) THEN now() END, due_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'WAITING'
OR CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'PENDING'
AND $1::TEXT = 'WAITING'
AND $2::TEXT IS NOT NULL
AND $3::BIGINT IS NULL) THEN now() + $4::FLOAT * interval '1 second' END, executor=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'RUNNING') THEN '00000000-0000-0000-0000-000000000000'::uuid END, attempts=CASE WHEN ($1::TEXT = 'WAITING'
AND $2::TEXT IS NOT NULL
AND $3::BIGINT IS NULL) THEN pgqrs.pgqrs_workflows.attempts WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'WAITING'
OR CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'PENDING'
AND (SELECT 1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_workflow_steps.epoch = pgqrs.pgqrs_workflows.epoch
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'

LIMIT 1) IS NOT NULL) THEN 0 WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END = 'PENDING') THEN greatest(pgqrs.pgqrs_workflows.attempts - 1, 0) ELSE pgqrs.pgqrs_workflows.attempts END, retries=coalesce($3::BIGINT, pgqrs.pgqrs_workflows.retries), deadline=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN ($1::TEXT = 'WAITING') THEN 'PENDING' ELSE $1::TEXT END ELSE $1::TEXT END != 'CANCELLED') THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=NULL, saga_state=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state = 'OPEN') THEN 'CANCELLED' ELSE pgqrs.pgqrs_workflows.saga_state END
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $5::BIGINT
AND pgqrs.pgqrs_workflows.claim = $6::BIGINT
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS leave_held
WHERE pgqrs.pgqrs_workflows.id = leave_held.id
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
AND pgqrs.pgqrs_workflows.executor IS DISTINCT
FROM '00000000-0000-0000-0000-000000000000'::uuid
RETURNING CASE WHEN (pgqrs.pgqrs_workflows.status = 'WAITING') THEN pgqrs.pgqrs_workflows.epoch ELSE -pgqrs.pgqrs_workflows.epoch END AS epoch
