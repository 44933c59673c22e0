UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' WHEN ($1::BIGINT IS NOT NULL) THEN 'RUNNING' ELSE 'PENDING' END, epoch=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.epoch WHEN ($1::BIGINT IS NOT NULL) THEN pgqrs.pgqrs_workflows.epoch + 1 ELSE pgqrs.pgqrs_workflows.epoch END, claim=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.claim ELSE $1::BIGINT END, started_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.started_at WHEN ($1::BIGINT IS NOT NULL) THEN now() END, completed_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN now() END, updated_at=now(), input=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.input ELSE CAST($2::TEXT AS JSON) END, error=NULL, queue=CASE WHEN ($1::BIGINT IS NOT NULL) THEN pgqrs.pgqrs_workflows.queue ELSE coalesce(pgqrs.pgqrs_workflows.queue, 'default') END, ready_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN NULL WHEN ($1::BIGINT IS NOT NULL) THEN NULL ELSE now() END, executor=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN NULL WHEN ($1::BIGINT IS NOT NULL) THEN pgqrs.pgqrs_workflows.executor END, attempts=0, retries=0, deadline=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN NULL WHEN ($1::BIGINT IS NOT NULL) THEN least((SELECT parent.deadline
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_workflows.parent_id), now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, $3::FLOAT) * interval '1 second') ELSE (SELECT parent.deadline
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_workflows.parent_id) END, cancel_interrupts=NULL, saga_state=NULL, generation=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.generation ELSE pgqrs.pgqrs_workflows.epoch END
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $4::BIGINT
AND pgqrs.pgqrs_workflows.claim = $5::BIGINT
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS continue_held
WHERE pgqrs.pgqrs_workflows.id = continue_held.id
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
AND pgqrs.pgqrs_workflows.executor IS DISTINCT
FROM '00000000-0000-0000-0000-000000000000'::uuid
RETURNING CASE WHEN (pgqrs.pgqrs_workflows.status = 'CANCELLED') THEN -pgqrs.pgqrs_workflows.epoch ELSE pgqrs.pgqrs_workflows.epoch END AS epoch
