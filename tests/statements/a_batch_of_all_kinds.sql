WITH end_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' WHEN (end_held.error IS NULL) THEN 'SUCCESS' ELSE 'ERROR' END, completed_at=now(), updated_at=now(), output=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL) THEN CAST(end_held.output AS JSON) END, error=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL) THEN CAST(end_held.error AS JSON) END, executor=NULL, deadline=NULL, cancel_interrupts=NULL
FROM (SELECT end_rows.workflow_id AS workflow_id, end_rows.claim AS claim, end_rows.output AS output, end_rows.error AS error, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($3::BIGINT[], $4::BIGINT[], $5::TEXT[], $6::TEXT[]) AS end_rows(workflow_id, claim, output, error)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = end_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS end_held
WHERE pgqrs.pgqrs_workflows.id = end_held.workflow_id
AND end_held.current_claim = end_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
RETURNING 'end' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, CASE WHEN (pgqrs.pgqrs_workflows.status = 'CANCELLED') THEN -pgqrs.pgqrs_workflows.epoch ELSE pgqrs.pgqrs_workflows.epoch END AS epoch),
reopen_done AS
(UPDATE pgqrs.pgqrs_workflow_steps
SET reopened=true, failures=0
FROM unnest($1::BIGINT[], $2::TEXT[]) AS reopen_rows(workflow_id, step_id), end_done
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = reopen_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = reopen_rows.step_id
AND end_done.workflow_id = reopen_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.status = 'ERROR'),
leave_done AS
(UPDATE pgqrs.pgqrs_workflows
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
FROM unnest($9::BIGINT[], $10::BIGINT[], $11::TEXT[], $12::DOUBLE PRECISION[], $13::TEXT[], $14::BIGINT[]) AS leave_rows(workflow_id, claim, status, wait, error, retries)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = leave_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS leave_held
WHERE pgqrs.pgqrs_workflows.id = leave_held.workflow_id
AND leave_held.current_claim = leave_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
AND pgqrs.pgqrs_workflows.executor IS DISTINCT
FROM '00000000-0000-0000-0000-000000000000'::uuid
RETURNING 'leave' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
retry_done AS
(UPDATE pgqrs.pgqrs_workflow_steps
SET reopened=true, failures=0
FROM unnest($7::BIGINT[], $8::TEXT[]) AS retry_rows(workflow_id, step_id), leave_done
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = retry_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = retry_rows.step_id
AND leave_done.workflow_id = retry_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.status = 'ERROR'),
begin_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, executor, status, epoch, claim, started_at, timeout, deadline, codec) SELECT begin_rows.workflow_id AS workflow_id, begin_rows.name AS name, CAST(begin_rows.input AS JSON) AS input, begin_rows.token AS token, begin_rows.executor AS executor, 'RUNNING', 1, begin_rows.token AS token__1, now() AS now_1, begin_rows.timeout AS timeout, now() + begin_rows.timeout * interval '1 second' AS anon_1, begin_rows.codec AS codec
FROM unnest($15::BIGINT[], $16::TEXT[], $17::TEXT[], $18::UUID[], $19::DOUBLE PRECISION[], $20::TEXT[], $21::BIGINT[]) AS begin_rows(workflow_id, name, input, executor, timeout, codec, token)
ORDER BY begin_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'begin' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
create_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, codec) SELECT create_rows.workflow_id AS workflow_id, create_rows.name AS name, CAST(create_rows.input AS JSON) AS input, create_rows.token AS token, create_rows.codec AS codec
FROM unnest($22::BIGINT[], $23::TEXT[], $24::TEXT[], $25::TEXT[], $26::BIGINT[]) AS create_rows(workflow_id, name, input, codec, token)
ORDER BY create_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'create' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueue_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec) SELECT enqueue_rows.workflow_id AS workflow_id, enqueue_rows.name AS name, CAST(enqueue_rows.input AS JSON) AS input, enqueue_rows.token AS token, enqueue_rows.queue AS queue, enqueue_rows.priority AS priority, CASE WHEN (enqueue_rows.delay IS NULL) THEN now() END AS anon_2, now() + enqueue_rows.delay * interval '1 second' AS anon_3, enqueue_rows.timeout AS timeout, enqueue_rows.key AS key, enqueue_rows.codec AS codec
FROM unnest($27::BIGINT[], $28::TEXT[], $29::TEXT[], $30::TEXT[], $31::BIGINT[], $32::DOUBLE PRECISION[], $33::DOUBLE PRECISION[], $34::TEXT[], $35::TEXT[], $36::BIGINT[]) AS enqueue_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token)
ORDER BY enqueue_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueue' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
failure_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, error, fingerprint, failures, retry_at) SELECT failure_held.workflow_id AS workflow_id, failure_held.step_id AS step_id, 'RUNNING', failure_held.current_epoch AS current_epoch, now() - failure_held.elapsed * interval '1 second' AS anon_4, CAST(failure_held.error AS JSON) AS error, failure_held.fingerprint AS fingerprint, failure_held.failures AS failures, now() + failure_held.delay * interval '1 second' AS anon_5
FROM (SELECT failure_rows.workflow_id AS workflow_id, failure_rows.claim AS claim, failure_rows.step_id AS step_id, failure_rows.error AS error, failure_rows.elapsed AS elapsed, failure_rows.fingerprint AS fingerprint, failure_rows.failures AS failures, failure_rows.delay AS delay, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($37::BIGINT[], $38::BIGINT[], $39::TEXT[], $40::TEXT[], $41::DOUBLE PRECISION[], $42::BIGINT[], $43::BIGINT[], $44::DOUBLE PRECISION[]) AS failure_rows(workflow_id, claim, step_id, error, elapsed, fingerprint, failures, delay)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = failure_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS failure_held
WHERE failure_held.current_claim = failure_held.claim
ORDER BY failure_held.workflow_id, failure_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = NULL, output = NULL, error = excluded.error, fingerprint = excluded.fingerprint, failures = excluded.failures, retry_at = excluded.retry_at
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
AND NOT (pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch
AND pgqrs.pgqrs_workflow_steps.failures >= excluded.failures)
RETURNING 'failure' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
last_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT last_held.workflow_id AS workflow_id, last_held.step_id AS step_id, CASE WHEN (last_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (last_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_6, last_held.current_epoch AS current_epoch, clock_timestamp() - last_held.elapsed * interval '1 second' AS anon_7, CASE WHEN (coalesce(last_held.output, last_held.error) IS NOT NULL) THEN clock_timestamp() END AS anon_8, CAST(last_held.output AS JSON) AS output, CAST(last_held.error AS JSON) AS error, last_held.fingerprint AS fingerprint
FROM (SELECT last_rows.workflow_id AS workflow_id, last_rows.claim AS claim, last_rows.step_id AS step_id, last_rows.output AS output, last_rows.error AS error, last_rows.elapsed AS elapsed, last_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($45::BIGINT[], $46::BIGINT[], $47::TEXT[], $48::TEXT[], $49::TEXT[], $50::DOUBLE PRECISION[], $51::BIGINT[]) AS last_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = last_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS last_held
WHERE last_held.current_claim = last_held.claim
ORDER BY last_held.workflow_id, last_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'last' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
lastfailure_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, error, fingerprint, failures, retry_at) SELECT lastfailure_held.workflow_id AS workflow_id, lastfailure_held.step_id AS step_id, 'RUNNING', lastfailure_held.current_epoch AS current_epoch, now() - lastfailure_held.elapsed * interval '1 second' AS anon_9, CAST(lastfailure_held.error AS JSON) AS error, lastfailure_held.fingerprint AS fingerprint, lastfailure_held.failures AS failures, now() + lastfailure_held.delay * interval '1 second' AS anon_10
FROM (SELECT lastfailure_rows.workflow_id AS workflow_id, lastfailure_rows.claim AS claim, lastfailure_rows.step_id AS step_id, lastfailure_rows.error AS error, lastfailure_rows.elapsed AS elapsed, lastfailure_rows.fingerprint AS fingerprint, lastfailure_rows.failures AS failures, lastfailure_rows.delay AS delay, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($52::BIGINT[], $53::BIGINT[], $54::TEXT[], $55::TEXT[], $56::DOUBLE PRECISION[], $57::BIGINT[], $58::BIGINT[], $59::DOUBLE PRECISION[]) AS lastfailure_rows(workflow_id, claim, step_id, error, elapsed, fingerprint, failures, delay)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = lastfailure_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS lastfailure_held
WHERE lastfailure_held.current_claim = lastfailure_held.claim
ORDER BY lastfailure_held.workflow_id, lastfailure_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = NULL, output = NULL, error = excluded.error, fingerprint = excluded.fingerprint, failures = excluded.failures, retry_at = excluded.retry_at
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
AND NOT (pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch
AND pgqrs.pgqrs_workflow_steps.failures >= excluded.failures)
RETURNING 'lastfailure' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
start_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status='RUNNING', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=start_held.claim, started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), completed_at=NULL, updated_at=now(), error=NULL, ready_at=NULL, due_at=NULL, executor=start_held.executor, retries=CASE WHEN (pgqrs.pgqrs_workflows.status = 'ERROR') THEN 0 ELSE pgqrs.pgqrs_workflows.retries END, deadline=coalesce(pgqrs.pgqrs_workflows.deadline, now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, start_held.timeout) * interval '1 second')
FROM (SELECT start_rows.workflow_id AS workflow_id, start_rows.claim AS claim, start_rows.executor AS executor, start_rows.timeout AS timeout, start_rows.codec AS codec, start_rows.token AS token, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($60::BIGINT[], $61::BIGINT[], $62::UUID[], $63::DOUBLE PRECISION[], $64::TEXT[], $65::BIGINT[]) AS start_rows(workflow_id, claim, executor, timeout, codec, token)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = start_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS start_held
WHERE pgqrs.pgqrs_workflows.id = start_held.workflow_id
AND pgqrs.pgqrs_workflows.claim IS DISTINCT
FROM start_held.claim
AND pgqrs.pgqrs_workflows.status IN ('PENDING', 'RUNNING', 'WAITING', 'ERROR')
AND (pgqrs.pgqrs_workflows.executor IS NULL
OR pgqrs.pgqrs_workflows.executor = start_held.executor
OR pgqrs.pgqrs_workflows.executor = '00000000-0000-0000-0000-000000000000'::uuid)
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM start_held.codec
AND pgqrs.pgqrs_workflows.token IS NOT DISTINCT
FROM coalesce(start_held.token, pgqrs.pgqrs_workflows.token)
RETURNING 'start' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
step_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT step_held.workflow_id AS workflow_id, step_held.step_id AS step_id, CASE WHEN (step_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (step_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_11, step_held.current_epoch AS current_epoch, now() - step_held.elapsed * interval '1 second' AS anon_12, CASE WHEN (coalesce(step_held.output, step_held.error) IS NOT NULL) THEN now() END AS anon_13, CAST(step_held.output AS JSON) AS output, CAST(step_held.error AS JSON) AS error, step_held.fingerprint AS fingerprint
FROM (SELECT step_rows.workflow_id AS workflow_id, step_rows.claim AS claim, step_rows.step_id AS step_id, step_rows.output AS output, step_rows.error AS error, step_rows.elapsed AS elapsed, step_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($66::BIGINT[], $67::BIGINT[], $68::TEXT[], $69::TEXT[], $70::TEXT[], $71::DOUBLE PRECISION[], $72::BIGINT[]) AS step_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = step_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS step_held
WHERE step_held.current_claim = step_held.claim
ORDER BY step_held.workflow_id, step_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'step' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch)
 SELECT begin_done.kind, begin_done.workflow_id, begin_done.key, begin_done.epoch
FROM begin_done
UNION ALL SELECT create_done.kind, create_done.workflow_id, create_done.key, create_done.epoch
FROM create_done
UNION ALL SELECT end_done.kind, end_done.workflow_id, end_done.key, end_done.epoch
FROM end_done
UNION ALL SELECT enqueue_done.kind, enqueue_done.workflow_id, enqueue_done.key, enqueue_done.epoch
FROM enqueue_done
UNION ALL SELECT failure_done.kind, failure_done.workflow_id, failure_done.key, failure_done.epoch
FROM failure_done
UNION ALL SELECT last_done.kind, last_done.workflow_id, last_done.key, last_done.epoch
FROM last_done
UNION ALL SELECT lastfailure_done.kind, lastfailure_done.workflow_id, lastfailure_done.key, lastfailure_done.epoch
FROM lastfailure_done
UNION ALL SELECT leave_done.kind, leave_done.workflow_id, leave_done.key, leave_done.epoch
FROM leave_done
UNION ALL SELECT start_done.kind, start_done.workflow_id, start_done.key, start_done.epoch
FROM start_done
UNION ALL SELECT step_done.kind, step_done.workflow_id, step_done.key, step_done.epoch
FROM step_done
