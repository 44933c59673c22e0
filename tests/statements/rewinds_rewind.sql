WITH noted AS
(INSERT INTO pgqrs.pgqrs_rewinds (workflow_id, epoch, before_step, token, status, output, error, completed_at) SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch + 1 AS anon_1, $5::TEXT AS anon_2, $6::BIGINT AS anon_3, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.output AS output, pgqrs.pgqrs_workflows.error AS error, pgqrs.pgqrs_workflows.completed_at AS completed_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $7::BIGINT)
 UPDATE pgqrs.pgqrs_workflows
SET status=$1::TEXT, epoch=(pgqrs.pgqrs_workflows.epoch + $2::BIGINT), claim=NULL, completed_at=NULL, updated_at=now(), output=NULL, error=NULL, ready_at=CASE WHEN (pgqrs.pgqrs_workflows.queue IS NOT NULL) THEN now() END, due_at=NULL, executor=NULL, attempts=$3::BIGINT, retries=$4::BIGINT, deadline=NULL, cancel_interrupts=NULL, ends_with_parent=(pgqrs.pgqrs_workflows.ends_with_parent
AND (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_workflows.parent_id
AND parent.completed_at IS NULL))), saga_state=CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN 'OPEN' END, batch_id=CASE WHEN (pgqrs.pgqrs_workflows.batch_id = pgqrs.pgqrs_workflows.id) THEN pgqrs.pgqrs_workflows.batch_id END, slot=CASE WHEN (pgqrs.pgqrs_workflows.completed_at IS NULL) THEN pgqrs.pgqrs_workflows.slot END
WHERE pgqrs.pgqrs_workflows.id = $7::BIGINT
