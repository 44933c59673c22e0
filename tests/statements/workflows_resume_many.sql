WITH made_pending AS
(UPDATE pgqrs.pgqrs_workflows
SET status=$2::TEXT, epoch=(pgqrs.pgqrs_workflows.epoch + $3::BIGINT), claim=NULL, completed_at=NULL, updated_at=now(), error=NULL, ready_at=CASE WHEN (pgqrs.pgqrs_workflows.queue IS NOT NULL) THEN now() END, due_at=NULL, executor=NULL, attempts=$4::BIGINT, retries=$5::BIGINT, deadline=NULL, cancel_interrupts=NULL, ends_with_parent=(pgqrs.pgqrs_workflows.ends_with_parent
AND (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_workflows.parent_id
AND parent.completed_at IS NULL))), saga_state=CASE WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflow_steps AS undo
WHERE undo.workflow_id = pgqrs.pgqrs_workflows.id
AND undo.status = $6::TEXT
AND pg_catalog.starts_with(undo.step_id, 'undo/')

LIMIT 1) IS NOT NULL
OR pgqrs.pgqrs_workflows.saga_state = 'OPEN') THEN pgqrs.pgqrs_workflows.saga_state WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN 'OPEN' END, batch_id=CASE WHEN (pgqrs.pgqrs_workflows.batch_id = pgqrs.pgqrs_workflows.id) THEN pgqrs.pgqrs_workflows.batch_id END, slot=CASE WHEN (pgqrs.pgqrs_workflows.completed_at IS NULL) THEN pgqrs.pgqrs_workflows.slot END
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($7::TEXT AS BIGINT[]) AS anon_1), '{}'))),
waiting_again AS
(UPDATE pgqrs.pgqrs_workflow_steps
SET status=$8::TEXT, completed_at=NULL, output=NULL, retry_at=NULL, address=NULL
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = any(coalesce((SELECT CAST($7::TEXT AS BIGINT[]) AS anon_2), '{}'))
AND pgqrs.pgqrs_workflow_steps.status = $9::TEXT
AND CASE WHEN (pg_catalog.starts_with(pgqrs.pgqrs_workflow_steps.address, 'c/')
AND pg_catalog.strpos(pgqrs.pgqrs_workflow_steps.step_id, 'as_completed/:') <= 0) THEN pg_catalog.json_extract_path_text(pgqrs.pgqrs_workflow_steps.output, 'status') != 'SUCCESS'
OR pg_catalog.json_extract_path_text(pgqrs.pgqrs_workflow_steps.output, 'failed') != '[]' ELSE false END
AND (SELECT 1
FROM pgqrs.pgqrs_workflow_steps AS undo
WHERE undo.workflow_id = pgqrs.pgqrs_workflow_steps.workflow_id
AND undo.status = $10::TEXT
AND pg_catalog.starts_with(undo.step_id, 'undo/')

LIMIT 1) IS NULL),
waits_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT CAST($7::TEXT AS BIGINT[]) AS anon_3), '{}'))),
began_anew AS
(UPDATE pgqrs.pgqrs_workflow_steps
SET completed_at=now()
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = any(coalesce((SELECT CAST($7::TEXT AS BIGINT[]) AS anon_4), '{}'))
AND (pg_catalog.starts_with(pgqrs.pgqrs_workflow_steps.step_id, 'saga:')
OR pg_catalog.starts_with(pgqrs.pgqrs_workflow_steps.step_id, 'saga/')))
 UPDATE pgqrs.pgqrs_workflow_steps
SET reopened=true, failures=$1::BIGINT, retry_at=NULL
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = any(coalesce((SELECT CAST($7::TEXT AS BIGINT[]) AS anon_5), '{}'))
AND pgqrs.pgqrs_workflow_steps.status = $11::TEXT
AND ((SELECT 1
FROM pgqrs.pgqrs_workflow_steps AS undo
WHERE undo.workflow_id = pgqrs.pgqrs_workflow_steps.workflow_id
AND undo.status = $10::TEXT
AND pg_catalog.starts_with(undo.step_id, 'undo/')

LIMIT 1) IS NULL
OR pgqrs.pgqrs_workflow_steps.started_at >= (SELECT pg_catalog.max(saga.completed_at) AS max_1
FROM pgqrs.pgqrs_workflow_steps AS saga
WHERE saga.workflow_id = pgqrs.pgqrs_workflow_steps.workflow_id
AND (pg_catalog.starts_with(saga.step_id, 'saga:')
OR pg_catalog.starts_with(saga.step_id, 'saga/')))
OR pg_catalog.starts_with(pgqrs.pgqrs_workflow_steps.step_id, 'undo/'))
