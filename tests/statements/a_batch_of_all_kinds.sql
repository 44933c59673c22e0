WITH sending_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT sending_held.workflow_id AS workflow_id, sending_held.step_id AS step_id, CASE WHEN (sending_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (sending_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_1, sending_held.current_epoch AS current_epoch, now() - sending_held.elapsed * interval '1 second' AS anon_2, CASE WHEN (coalesce(sending_held.output, sending_held.error) IS NOT NULL) THEN now() END AS anon_3, CAST(sending_held.output AS JSON) AS output, CAST(sending_held.error AS JSON) AS error, sending_held.fingerprint AS fingerprint
FROM (SELECT sending_rows.workflow_id AS workflow_id, sending_rows.claim AS claim, sending_rows.step_id AS step_id, sending_rows.output AS output, sending_rows.error AS error, sending_rows.elapsed AS elapsed, sending_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($6::BIGINT[], $7::BIGINT[], $8::TEXT[], $9::TEXT[], $10::TEXT[], $11::DOUBLE PRECISION[], $12::BIGINT[]) AS sending_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = sending_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS sending_held
WHERE sending_held.current_claim = sending_held.claim
ORDER BY sending_held.workflow_id, sending_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'sending' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
attributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT attributes_rows.owner_id AS owner_id, CAST(attributes_rows.attributes AS JSONB) AS attributes, CAST(attributes_rows.tags AS TEXT[]) AS tags
FROM unnest($1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::TEXT[]) AS attributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN sending_done ON sending_done.workflow_id = attributes_rows.workflow_id
AND attributes_rows.key IS NOT DISTINCT
FROM sending_done.key
ORDER BY attributes_rows.owner_id
ON CONFLICT (workflow_id)
DO UPDATE
SET tags = (SELECT coalesce(pg_catalog.array_agg(DISTINCT tag), '{}') AS coalesce_1
FROM pg_catalog.unnest(pg_catalog.array_cat(pgqrs.pgqrs_attributes.tags, excluded.tags)) AS tag), attributes = (pgqrs.pgqrs_attributes.attributes OPERATOR(pg_catalog.||) excluded.attributes)),
leave_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END, completed_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'CANCELLED') THEN now() END, updated_at=now(), error=CAST(leave_held.error AS JSON), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'PENDING'
AND NOT (leave_held.status = 'WAITING'
AND leave_held.error IS NOT NULL
AND leave_held.retries IS NULL)) THEN now() END, due_at=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'WAITING'
OR CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'PENDING'
AND leave_held.status = 'WAITING'
AND leave_held.error IS NOT NULL
AND leave_held.retries IS NULL) THEN now() + leave_held.wait * interval '1 second' END, executor=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'RUNNING') THEN '00000000-0000-0000-0000-000000000000'::uuid END, attempts=CASE WHEN (leave_held.status = 'WAITING'
AND leave_held.error IS NOT NULL
AND leave_held.retries IS NULL) THEN pgqrs.pgqrs_workflows.attempts WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'WAITING'
OR CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'PENDING'
AND (SELECT 1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_workflow_steps.epoch = pgqrs.pgqrs_workflows.epoch
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'

LIMIT 1) IS NOT NULL) THEN 0 WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END = 'PENDING') THEN greatest(pgqrs.pgqrs_workflows.attempts - 1, 0) ELSE pgqrs.pgqrs_workflows.attempts END, retries=coalesce(leave_held.retries, pgqrs.pgqrs_workflows.retries), deadline=CASE WHEN (CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN CASE WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL) THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE 'CANCELLED' END WHEN (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN') THEN CASE WHEN (leave_held.status = 'WAITING') THEN 'PENDING' ELSE leave_held.status END ELSE leave_held.status END != 'CANCELLED') THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=NULL, saga_state=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state = 'OPEN') THEN 'CANCELLED' ELSE pgqrs.pgqrs_workflows.saga_state END
FROM (SELECT leave_rows.workflow_id AS workflow_id, leave_rows.claim AS claim, leave_rows.status AS status, leave_rows.wait AS wait, leave_rows.error AS error, leave_rows.retries AS retries, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($17::BIGINT[], $18::BIGINT[], $19::TEXT[], $20::DOUBLE PRECISION[], $21::TEXT[], $22::BIGINT[]) AS leave_rows(workflow_id, claim, status, wait, error, retries)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = leave_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS leave_held
WHERE pgqrs.pgqrs_workflows.id = leave_held.workflow_id
AND leave_held.current_claim = leave_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
AND pgqrs.pgqrs_workflows.executor IS DISTINCT
FROM '00000000-0000-0000-0000-000000000000'::uuid
RETURNING 'leave' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, CASE WHEN (pgqrs.pgqrs_workflows.status = 'WAITING') THEN pgqrs.pgqrs_workflows.epoch ELSE -pgqrs.pgqrs_workflows.epoch END AS epoch),
awaited_done AS
(INSERT INTO pgqrs.pgqrs_waits (workflow_id, step_id, address, claim) SELECT awaited_rows.workflow_id AS workflow_id, awaited_rows.step_id AS step_id, awaited_rows.address AS address, awaited_rows.claim AS claim
FROM unnest($13::BIGINT[], $14::BIGINT[], $15::TEXT[], $16::TEXT[]) AS awaited_rows(workflow_id, claim, step_id, address)
JOIN leave_done ON leave_done.workflow_id = awaited_rows.workflow_id
WHERE leave_done.epoch > 0
ORDER BY awaited_rows.workflow_id, awaited_rows.step_id, awaited_rows.address),
child_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, trace) SELECT child_rows.child_id AS child_id, child_rows.name AS name, CAST(child_rows.input AS JSON) AS input, child_rows.token AS token, child_rows.queue AS queue, child_rows.priority AS priority, CASE WHEN (child_rows.delay IS NULL) THEN now() END AS anon_4, now() + child_rows.delay * interval '1 second' AS anon_5, child_rows.timeout AS timeout, parent.deadline AS deadline, child_rows.codec AS codec, child_rows.workflow_id AS workflow_id, coalesce(CAST(parent.generation AS TEXT) || '//' || child_rows.step_id, child_rows.step_id) AS coalesce_2, child_rows.place AS place, child_rows.ends_with_parent AS ends_with_parent, child_rows.partition_key AS partition_key, parent.trace AS trace
FROM unnest($23::BIGINT[], $24::TEXT[], $25::BIGINT[], $26::BIGINT[], $27::TEXT[], $28::TEXT[], $29::TEXT[], $30::BIGINT[], $31::DOUBLE PRECISION[], $32::DOUBLE PRECISION[], $33::TEXT[], $34::BIGINT[], $35::BOOLEAN[], $36::TEXT[]) AS child_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key)
JOIN sending_done ON sending_done.workflow_id = child_rows.workflow_id
AND sending_done.key = child_rows.step_id
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = child_rows.workflow_id
ORDER BY child_rows.child_id
ON CONFLICT (parent_id, parent_step, place)
WHERE parent_id IS NOT NULL DO NOTHING),
childattributes_inserted AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, trace) SELECT childattributes_rows.child_id AS child_id, childattributes_rows.name AS name, CAST(childattributes_rows.input AS JSON) AS input, childattributes_rows.token AS token, childattributes_rows.queue AS queue, childattributes_rows.priority AS priority, CASE WHEN (childattributes_rows.delay IS NULL) THEN now() END AS anon_6, now() + childattributes_rows.delay * interval '1 second' AS anon_7, childattributes_rows.timeout AS timeout, parent.deadline AS deadline, childattributes_rows.codec AS codec, childattributes_rows.workflow_id AS workflow_id, coalesce(CAST(parent.generation AS TEXT) || '//' || childattributes_rows.step_id, childattributes_rows.step_id) AS coalesce_3, childattributes_rows.place AS place, childattributes_rows.ends_with_parent AS ends_with_parent, childattributes_rows.partition_key AS partition_key, coalesce(childattributes_rows.trace, parent.trace) AS coalesce_4
FROM unnest($37::BIGINT[], $38::TEXT[], $39::BIGINT[], $40::BIGINT[], $41::TEXT[], $42::TEXT[], $43::TEXT[], $44::BIGINT[], $45::DOUBLE PRECISION[], $46::DOUBLE PRECISION[], $47::TEXT[], $48::BIGINT[], $49::BOOLEAN[], $50::TEXT[], $51::TEXT[], $52::TEXT[], $53::TEXT[]) AS childattributes_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key, trace, attributes, tags)
JOIN sending_done ON sending_done.workflow_id = childattributes_rows.workflow_id
AND sending_done.key = childattributes_rows.step_id
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = childattributes_rows.workflow_id
ORDER BY childattributes_rows.child_id
ON CONFLICT (parent_id, parent_step, place)
WHERE parent_id IS NOT NULL DO NOTHING
RETURNING pgqrs.pgqrs_workflows.id),
childattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT described.owner_id AS owner_id, CAST(described.attributes AS JSONB) AS attributes, CAST(described.tags AS TEXT[]) AS tags
FROM (SELECT childattributes_rows.child_id AS owner_id, childattributes_rows.attributes AS attributes, childattributes_rows.tags AS tags
FROM unnest($37::BIGINT[], $38::TEXT[], $39::BIGINT[], $40::BIGINT[], $41::TEXT[], $42::TEXT[], $43::TEXT[], $44::BIGINT[], $45::DOUBLE PRECISION[], $46::DOUBLE PRECISION[], $47::TEXT[], $48::BIGINT[], $49::BOOLEAN[], $50::TEXT[], $51::TEXT[], $52::TEXT[], $53::TEXT[]) AS childattributes_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key, trace, attributes, tags), childattributes_inserted
WHERE childattributes_inserted.id = childattributes_rows.child_id) AS described
ORDER BY described.owner_id
ON CONFLICT DO NOTHING),
startmany_done AS
(SELECT 'startmany' AS kind, startmany_held.workflow_id AS workflow_id, startmany_held.step_id AS key, startmany_held.current_epoch AS epoch
FROM (SELECT startmany_rows.workflow_id AS workflow_id, startmany_rows.claim AS claim, startmany_rows.step_id AS step_id, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($68::BIGINT[], $69::BIGINT[], $70::TEXT[]) AS startmany_rows(workflow_id, claim, step_id)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = startmany_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS startmany_held
WHERE startmany_held.current_claim = startmany_held.claim),
children_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, trace) SELECT children_rows.child_id AS child_id, children_rows.name AS name, CAST(children_rows.input AS JSON) AS input, children_rows.token AS token, children_rows.queue AS queue, children_rows.priority AS priority, CASE WHEN (children_rows.delay IS NULL) THEN now() END AS anon_8, now() + children_rows.delay * interval '1 second' AS anon_9, children_rows.timeout AS timeout, parent.deadline AS deadline, children_rows.codec AS codec, children_rows.workflow_id AS workflow_id, coalesce(CAST(parent.generation AS TEXT) || '//' || children_rows.step_id, children_rows.step_id) AS coalesce_5, children_rows.place AS place, children_rows.ends_with_parent AS ends_with_parent, children_rows.partition_key AS partition_key, parent.trace AS trace
FROM unnest($54::BIGINT[], $55::TEXT[], $56::BIGINT[], $57::BIGINT[], $58::TEXT[], $59::TEXT[], $60::TEXT[], $61::BIGINT[], $62::DOUBLE PRECISION[], $63::DOUBLE PRECISION[], $64::TEXT[], $65::BIGINT[], $66::BOOLEAN[], $67::TEXT[]) AS children_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key)
JOIN startmany_done ON startmany_done.workflow_id = children_rows.workflow_id
AND startmany_done.key = children_rows.step_id
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = children_rows.workflow_id
ORDER BY children_rows.child_id
ON CONFLICT (parent_id, parent_step, place)
WHERE parent_id IS NOT NULL DO NOTHING),
childrenattributes_inserted AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, trace) SELECT childrenattributes_rows.child_id AS child_id, childrenattributes_rows.name AS name, CAST(childrenattributes_rows.input AS JSON) AS input, childrenattributes_rows.token AS token, childrenattributes_rows.queue AS queue, childrenattributes_rows.priority AS priority, CASE WHEN (childrenattributes_rows.delay IS NULL) THEN now() END AS anon_10, now() + childrenattributes_rows.delay * interval '1 second' AS anon_11, childrenattributes_rows.timeout AS timeout, parent.deadline AS deadline, childrenattributes_rows.codec AS codec, childrenattributes_rows.workflow_id AS workflow_id, coalesce(CAST(parent.generation AS TEXT) || '//' || childrenattributes_rows.step_id, childrenattributes_rows.step_id) AS coalesce_6, childrenattributes_rows.place AS place, childrenattributes_rows.ends_with_parent AS ends_with_parent, childrenattributes_rows.partition_key AS partition_key, coalesce(childrenattributes_rows.trace, parent.trace) AS coalesce_7
FROM unnest($71::BIGINT[], $72::TEXT[], $73::BIGINT[], $74::BIGINT[], $75::TEXT[], $76::TEXT[], $77::TEXT[], $78::BIGINT[], $79::DOUBLE PRECISION[], $80::DOUBLE PRECISION[], $81::TEXT[], $82::BIGINT[], $83::BOOLEAN[], $84::TEXT[], $85::TEXT[], $86::TEXT[], $87::TEXT[]) AS childrenattributes_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key, trace, attributes, tags)
JOIN startmany_done ON startmany_done.workflow_id = childrenattributes_rows.workflow_id
AND startmany_done.key = childrenattributes_rows.step_id
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = childrenattributes_rows.workflow_id
ORDER BY childrenattributes_rows.child_id
ON CONFLICT (parent_id, parent_step, place)
WHERE parent_id IS NOT NULL DO NOTHING
RETURNING pgqrs.pgqrs_workflows.id),
childrenattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT described.owner_id AS owner_id, CAST(described.attributes AS JSONB) AS attributes, CAST(described.tags AS TEXT[]) AS tags
FROM (SELECT childrenattributes_rows.child_id AS owner_id, childrenattributes_rows.attributes AS attributes, childrenattributes_rows.tags AS tags
FROM unnest($71::BIGINT[], $72::TEXT[], $73::BIGINT[], $74::BIGINT[], $75::TEXT[], $76::TEXT[], $77::TEXT[], $78::BIGINT[], $79::DOUBLE PRECISION[], $80::DOUBLE PRECISION[], $81::TEXT[], $82::BIGINT[], $83::BOOLEAN[], $84::TEXT[], $85::TEXT[], $86::TEXT[], $87::TEXT[]) AS childrenattributes_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key, trace, attributes, tags), childrenattributes_inserted
WHERE childrenattributes_inserted.id = childrenattributes_rows.child_id) AS described
ORDER BY described.owner_id
ON CONFLICT DO NOTHING),
childrentraced_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, trace) SELECT childrentraced_rows.child_id AS child_id, childrentraced_rows.name AS name, CAST(childrentraced_rows.input AS JSON) AS input, childrentraced_rows.token AS token, childrentraced_rows.queue AS queue, childrentraced_rows.priority AS priority, CASE WHEN (childrentraced_rows.delay IS NULL) THEN now() END AS anon_12, now() + childrentraced_rows.delay * interval '1 second' AS anon_13, childrentraced_rows.timeout AS timeout, parent.deadline AS deadline, childrentraced_rows.codec AS codec, childrentraced_rows.workflow_id AS workflow_id, coalesce(CAST(parent.generation AS TEXT) || '//' || childrentraced_rows.step_id, childrentraced_rows.step_id) AS coalesce_8, childrentraced_rows.place AS place, childrentraced_rows.ends_with_parent AS ends_with_parent, childrentraced_rows.partition_key AS partition_key, childrentraced_rows.trace AS trace
FROM unnest($88::BIGINT[], $89::TEXT[], $90::BIGINT[], $91::BIGINT[], $92::TEXT[], $93::TEXT[], $94::TEXT[], $95::BIGINT[], $96::DOUBLE PRECISION[], $97::DOUBLE PRECISION[], $98::TEXT[], $99::BIGINT[], $100::BOOLEAN[], $101::TEXT[], $102::TEXT[]) AS childrentraced_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key, trace)
JOIN startmany_done ON startmany_done.workflow_id = childrentraced_rows.workflow_id
AND startmany_done.key = childrentraced_rows.step_id
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = childrentraced_rows.workflow_id
ORDER BY childrentraced_rows.child_id
ON CONFLICT (parent_id, parent_step, place)
WHERE parent_id IS NOT NULL DO NOTHING),
childtraced_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, trace) SELECT childtraced_rows.child_id AS child_id, childtraced_rows.name AS name, CAST(childtraced_rows.input AS JSON) AS input, childtraced_rows.token AS token, childtraced_rows.queue AS queue, childtraced_rows.priority AS priority, CASE WHEN (childtraced_rows.delay IS NULL) THEN now() END AS anon_14, now() + childtraced_rows.delay * interval '1 second' AS anon_15, childtraced_rows.timeout AS timeout, parent.deadline AS deadline, childtraced_rows.codec AS codec, childtraced_rows.workflow_id AS workflow_id, coalesce(CAST(parent.generation AS TEXT) || '//' || childtraced_rows.step_id, childtraced_rows.step_id) AS coalesce_9, childtraced_rows.place AS place, childtraced_rows.ends_with_parent AS ends_with_parent, childtraced_rows.partition_key AS partition_key, childtraced_rows.trace AS trace
FROM unnest($103::BIGINT[], $104::TEXT[], $105::BIGINT[], $106::BIGINT[], $107::TEXT[], $108::TEXT[], $109::TEXT[], $110::BIGINT[], $111::DOUBLE PRECISION[], $112::DOUBLE PRECISION[], $113::TEXT[], $114::BIGINT[], $115::BOOLEAN[], $116::TEXT[], $117::TEXT[]) AS childtraced_rows(workflow_id, step_id, place, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, partition_key, trace)
JOIN sending_done ON sending_done.workflow_id = childtraced_rows.workflow_id
AND sending_done.key = childtraced_rows.step_id
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = childtraced_rows.workflow_id
ORDER BY childtraced_rows.child_id
ON CONFLICT (parent_id, parent_step, place)
WHERE parent_id IS NOT NULL DO NOTHING),
enqueue_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec) SELECT enqueue_rows.workflow_id AS workflow_id, enqueue_rows.name AS name, CAST(enqueue_rows.input AS JSON) AS input, enqueue_rows.token AS token, enqueue_rows.queue AS queue, enqueue_rows.priority AS priority, CASE WHEN (enqueue_rows.delay IS NULL) THEN now() END AS anon_16, now() + enqueue_rows.delay * interval '1 second' AS anon_17, enqueue_rows.timeout AS timeout, enqueue_rows.key AS key, enqueue_rows.codec AS codec
FROM unnest($123::BIGINT[], $124::TEXT[], $125::TEXT[], $126::TEXT[], $127::BIGINT[], $128::DOUBLE PRECISION[], $129::DOUBLE PRECISION[], $130::TEXT[], $131::TEXT[], $132::BIGINT[]) AS enqueue_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token)
ORDER BY enqueue_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueue' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueueattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueueattributes_rows.owner_id AS owner_id, CAST(enqueueattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueueattributes_rows.tags AS TEXT[]) AS tags
FROM unnest($118::BIGINT[], $119::TEXT[], $120::BIGINT[], $121::TEXT[], $122::TEXT[]) AS enqueueattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueue_done ON enqueue_done.workflow_id = enqueueattributes_rows.workflow_id
AND enqueueattributes_rows.key IS NOT DISTINCT
FROM enqueue_done.key
ORDER BY enqueueattributes_rows.owner_id
ON CONFLICT DO NOTHING),
enqueuepartitioned_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, partition_key, releases_key) SELECT enqueuepartitioned_rows.workflow_id AS workflow_id, enqueuepartitioned_rows.name AS name, CAST(enqueuepartitioned_rows.input AS JSON) AS input, enqueuepartitioned_rows.token AS token, enqueuepartitioned_rows.queue AS queue, enqueuepartitioned_rows.priority AS priority, CASE WHEN (enqueuepartitioned_rows.delay IS NULL) THEN now() END AS anon_18, now() + enqueuepartitioned_rows.delay * interval '1 second' AS anon_19, enqueuepartitioned_rows.timeout AS timeout, enqueuepartitioned_rows.key AS key, enqueuepartitioned_rows.codec AS codec, enqueuepartitioned_rows.partition_key AS partition_key, enqueuepartitioned_rows.releases_key AS releases_key
FROM unnest($138::BIGINT[], $139::TEXT[], $140::TEXT[], $141::TEXT[], $142::BIGINT[], $143::DOUBLE PRECISION[], $144::DOUBLE PRECISION[], $145::TEXT[], $146::TEXT[], $147::BIGINT[], $148::TEXT[], $149::BOOLEAN[]) AS enqueuepartitioned_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, releases_key)
ORDER BY enqueuepartitioned_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueuepartitioned' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueuepartitionedattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueuepartitionedattributes_rows.owner_id AS owner_id, CAST(enqueuepartitionedattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueuepartitionedattributes_rows.tags AS TEXT[]) AS tags
FROM unnest($133::BIGINT[], $134::TEXT[], $135::BIGINT[], $136::TEXT[], $137::TEXT[]) AS enqueuepartitionedattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueuepartitioned_done ON enqueuepartitioned_done.workflow_id = enqueuepartitionedattributes_rows.workflow_id
AND enqueuepartitionedattributes_rows.key IS NOT DISTINCT
FROM enqueuepartitioned_done.key
ORDER BY enqueuepartitionedattributes_rows.owner_id
ON CONFLICT DO NOTHING),
enqueuetraced_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, partition_key, releases_key, trace) SELECT enqueuetraced_rows.workflow_id AS workflow_id, enqueuetraced_rows.name AS name, CAST(enqueuetraced_rows.input AS JSON) AS input, enqueuetraced_rows.token AS token, enqueuetraced_rows.queue AS queue, enqueuetraced_rows.priority AS priority, CASE WHEN (enqueuetraced_rows.delay IS NULL) THEN now() END AS anon_20, now() + enqueuetraced_rows.delay * interval '1 second' AS anon_21, enqueuetraced_rows.timeout AS timeout, enqueuetraced_rows.key AS key, enqueuetraced_rows.codec AS codec, enqueuetraced_rows.partition_key AS partition_key, enqueuetraced_rows.releases_key AS releases_key, enqueuetraced_rows.trace AS trace
FROM unnest($155::BIGINT[], $156::TEXT[], $157::TEXT[], $158::TEXT[], $159::BIGINT[], $160::DOUBLE PRECISION[], $161::DOUBLE PRECISION[], $162::TEXT[], $163::TEXT[], $164::BIGINT[], $165::TEXT[], $166::BOOLEAN[], $167::TEXT[]) AS enqueuetraced_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, releases_key, trace)
ORDER BY enqueuetraced_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueuetraced' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueuetracedattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueuetracedattributes_rows.owner_id AS owner_id, CAST(enqueuetracedattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueuetracedattributes_rows.tags AS TEXT[]) AS tags
FROM unnest($150::BIGINT[], $151::TEXT[], $152::BIGINT[], $153::TEXT[], $154::TEXT[]) AS enqueuetracedattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueuetraced_done ON enqueuetraced_done.workflow_id = enqueuetracedattributes_rows.workflow_id
AND enqueuetracedattributes_rows.key IS NOT DISTINCT
FROM enqueuetraced_done.key
ORDER BY enqueuetracedattributes_rows.owner_id
ON CONFLICT DO NOTHING),
enqueueuntilend_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, releases_key) SELECT enqueueuntilend_rows.workflow_id AS workflow_id, enqueueuntilend_rows.name AS name, CAST(enqueueuntilend_rows.input AS JSON) AS input, enqueueuntilend_rows.token AS token, enqueueuntilend_rows.queue AS queue, enqueueuntilend_rows.priority AS priority, CASE WHEN (enqueueuntilend_rows.delay IS NULL) THEN now() END AS anon_22, now() + enqueueuntilend_rows.delay * interval '1 second' AS anon_23, enqueueuntilend_rows.timeout AS timeout, enqueueuntilend_rows.key AS key, enqueueuntilend_rows.codec AS codec, true AS anon_24
FROM unnest($173::BIGINT[], $174::TEXT[], $175::TEXT[], $176::TEXT[], $177::BIGINT[], $178::DOUBLE PRECISION[], $179::DOUBLE PRECISION[], $180::TEXT[], $181::TEXT[], $182::BIGINT[]) AS enqueueuntilend_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token)
ORDER BY enqueueuntilend_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueueuntilend' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueueuntilendattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueueuntilendattributes_rows.owner_id AS owner_id, CAST(enqueueuntilendattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueueuntilendattributes_rows.tags AS TEXT[]) AS tags
FROM unnest($168::BIGINT[], $169::TEXT[], $170::BIGINT[], $171::TEXT[], $172::TEXT[]) AS enqueueuntilendattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueueuntilend_done ON enqueueuntilend_done.workflow_id = enqueueuntilendattributes_rows.workflow_id
AND enqueueuntilendattributes_rows.key IS NOT DISTINCT
FROM enqueueuntilend_done.key
ORDER BY enqueueuntilendattributes_rows.owner_id
ON CONFLICT DO NOTHING),
events_done AS
(INSERT INTO pgqrs.pgqrs_events (workflow_id, name, value, set_at) SELECT events_rows.workflow_id AS workflow_id, events_rows.name AS name, CAST(events_rows.value AS JSON) AS value, now() AS now_1
FROM unnest($183::BIGINT[], $184::TEXT[], $185::TEXT[], $186::TEXT[]) AS events_rows(workflow_id, step_id, name, value)
JOIN sending_done ON sending_done.workflow_id = events_rows.workflow_id
AND sending_done.key = events_rows.step_id
ORDER BY events_rows.workflow_id, events_rows.name
ON CONFLICT (workflow_id, name)
DO UPDATE
SET value = excluded.value, set_at = excluded.set_at),
parent_done AS
(UPDATE pgqrs.pgqrs_workflows
SET has_children=true
FROM unnest($187::BIGINT[], $188::TEXT[]) AS parent_rows(workflow_id, step_id), sending_done
WHERE pgqrs.pgqrs_workflows.id = parent_rows.workflow_id
AND pgqrs.pgqrs_workflows.has_children IS false
AND sending_done.workflow_id = parent_rows.workflow_id
AND sending_done.key = parent_rows.step_id),
parents_done AS
(UPDATE pgqrs.pgqrs_workflows
SET has_children=true
FROM unnest($189::BIGINT[], $190::TEXT[]) AS parents_rows(workflow_id, step_id), startmany_done
WHERE pgqrs.pgqrs_workflows.id = parents_rows.workflow_id
AND pgqrs.pgqrs_workflows.has_children IS false
AND startmany_done.workflow_id = parents_rows.workflow_id
AND startmany_done.key = parents_rows.step_id),
end_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (NOT (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
OR coalesce(pgqrs.pgqrs_workflows.saga_state = 'OPEN', false))) THEN 'CANCELLED' WHEN (end_held.error IS NULL) THEN 'SUCCESS' ELSE 'ERROR' END, completed_at=now(), updated_at=now(), output=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
OR coalesce(pgqrs.pgqrs_workflows.saga_state = 'OPEN', false)) THEN CAST(end_held.output AS JSON) END, error=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
OR coalesce(pgqrs.pgqrs_workflows.saga_state = 'OPEN', false)) THEN CAST(end_held.error AS JSON) END, executor=NULL, deadline=NULL, cancel_interrupts=NULL
FROM (SELECT end_rows.workflow_id AS workflow_id, end_rows.claim AS claim, end_rows.output AS output, end_rows.error AS error, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($193::BIGINT[], $194::BIGINT[], $195::TEXT[], $196::TEXT[]) AS end_rows(workflow_id, claim, output, error)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = end_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS end_held
WHERE pgqrs.pgqrs_workflows.id = end_held.workflow_id
AND end_held.current_claim = end_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
RETURNING 'end' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, CASE WHEN (pgqrs.pgqrs_workflows.status = 'CANCELLED') THEN -pgqrs.pgqrs_workflows.epoch ELSE pgqrs.pgqrs_workflows.epoch END AS epoch),
reopen_done AS
(UPDATE pgqrs.pgqrs_workflow_steps
SET reopened=true, failures=0, retry_at=NULL
FROM unnest($191::BIGINT[], $192::TEXT[]) AS reopen_rows(workflow_id, step_id), end_done
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = reopen_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = reopen_rows.step_id
AND end_done.workflow_id = reopen_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.status = 'ERROR'),
replies_done AS
(INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload, is_new, taken_at) SELECT replies_rows.workflow_id AS workflow_id, replies_rows.address AS address, replies_rows.key AS key, replies_rows.is_kept AS is_kept, CAST(replies_rows.payload AS JSON) AS payload, false, now() AS now_2
FROM unnest($197::BIGINT[], $198::TEXT[], $199::TEXT[], $200::TEXT[], $201::BOOLEAN[], $202::TEXT[]) AS replies_rows(workflow_id, step_id, address, key, is_kept, payload)
JOIN sending_done ON sending_done.workflow_id = replies_rows.workflow_id
AND sending_done.key = replies_rows.step_id
ORDER BY replies_rows.address, replies_rows.key
ON CONFLICT DO NOTHING),
retry_done AS
(UPDATE pgqrs.pgqrs_workflow_steps
SET reopened=true, failures=0, retry_at=NULL
FROM unnest($203::BIGINT[], $204::TEXT[]) AS retry_rows(workflow_id, step_id), leave_done
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = retry_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = retry_rows.step_id
AND leave_done.workflow_id = retry_rows.workflow_id
AND pgqrs.pgqrs_workflow_steps.status = 'ERROR'),
startkeyed_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, key, releases_key, trace) SELECT startkeyed_held.child_id AS child_id, startkeyed_held.name AS name, CAST(startkeyed_held.input AS JSON) AS input, startkeyed_held.token AS token, startkeyed_held.queue AS queue, startkeyed_held.priority AS priority, CASE WHEN (startkeyed_held.delay IS NULL) THEN now() END AS anon_25, now() + startkeyed_held.delay * interval '1 second' AS anon_26, startkeyed_held.timeout AS timeout, parent.deadline AS deadline, startkeyed_held.codec AS codec, startkeyed_held.workflow_id AS workflow_id, startkeyed_held.step_id AS step_id, 0, startkeyed_held.ends_with_parent AS ends_with_parent, startkeyed_held.partition_key AS partition_key, startkeyed_held.key AS key, startkeyed_held.releases_key AS releases_key, parent.trace AS trace
FROM (SELECT startkeyed_rows.workflow_id AS workflow_id, startkeyed_rows.claim AS claim, startkeyed_rows.step_id AS step_id, startkeyed_rows.child_id AS child_id, startkeyed_rows.name AS name, startkeyed_rows.input AS input, startkeyed_rows.queue AS queue, startkeyed_rows.priority AS priority, startkeyed_rows.delay AS delay, startkeyed_rows.timeout AS timeout, startkeyed_rows.codec AS codec, startkeyed_rows.token AS token, startkeyed_rows.ends_with_parent AS ends_with_parent, startkeyed_rows.key AS key, startkeyed_rows.releases_key AS releases_key, startkeyed_rows.partition_key AS partition_key, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($210::BIGINT[], $211::BIGINT[], $212::TEXT[], $213::BIGINT[], $214::TEXT[], $215::TEXT[], $216::TEXT[], $217::BIGINT[], $218::DOUBLE PRECISION[], $219::DOUBLE PRECISION[], $220::TEXT[], $221::BIGINT[], $222::BOOLEAN[], $223::TEXT[], $224::BOOLEAN[], $225::TEXT[]) AS startkeyed_rows(workflow_id, claim, step_id, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, key, releases_key, partition_key)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = startkeyed_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS startkeyed_held
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = startkeyed_held.workflow_id
WHERE startkeyed_held.current_claim = startkeyed_held.claim
ORDER BY startkeyed_held.child_id
ON CONFLICT DO NOTHING
RETURNING 'startkeyed' AS kind, pgqrs.pgqrs_workflows.parent_id AS workflow_id, pgqrs.pgqrs_workflows.parent_step AS key, 1 AS epoch),
startkeyedattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT startkeyedattributes_rows.owner_id AS owner_id, CAST(startkeyedattributes_rows.attributes AS JSONB) AS attributes, CAST(startkeyedattributes_rows.tags AS TEXT[]) AS tags
FROM unnest($205::BIGINT[], $206::TEXT[], $207::BIGINT[], $208::TEXT[], $209::TEXT[]) AS startkeyedattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN startkeyed_done ON startkeyed_done.workflow_id = startkeyedattributes_rows.workflow_id
AND startkeyedattributes_rows.key IS NOT DISTINCT
FROM startkeyed_done.key
ORDER BY startkeyedattributes_rows.owner_id
ON CONFLICT DO NOTHING),
starttraced_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, deadline, codec, parent_id, parent_step, place, ends_with_parent, partition_key, key, releases_key, trace) SELECT starttraced_held.child_id AS child_id, starttraced_held.name AS name, CAST(starttraced_held.input AS JSON) AS input, starttraced_held.token AS token, starttraced_held.queue AS queue, starttraced_held.priority AS priority, CASE WHEN (starttraced_held.delay IS NULL) THEN now() END AS anon_27, now() + starttraced_held.delay * interval '1 second' AS anon_28, starttraced_held.timeout AS timeout, parent.deadline AS deadline, starttraced_held.codec AS codec, starttraced_held.workflow_id AS workflow_id, starttraced_held.step_id AS step_id, 0, starttraced_held.ends_with_parent AS ends_with_parent, starttraced_held.partition_key AS partition_key, starttraced_held.key AS key, starttraced_held.releases_key AS releases_key, starttraced_held.trace AS trace
FROM (SELECT starttraced_rows.workflow_id AS workflow_id, starttraced_rows.claim AS claim, starttraced_rows.step_id AS step_id, starttraced_rows.child_id AS child_id, starttraced_rows.name AS name, starttraced_rows.input AS input, starttraced_rows.queue AS queue, starttraced_rows.priority AS priority, starttraced_rows.delay AS delay, starttraced_rows.timeout AS timeout, starttraced_rows.codec AS codec, starttraced_rows.token AS token, starttraced_rows.ends_with_parent AS ends_with_parent, starttraced_rows.key AS key, starttraced_rows.releases_key AS releases_key, starttraced_rows.partition_key AS partition_key, starttraced_rows.trace AS trace, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($231::BIGINT[], $232::BIGINT[], $233::TEXT[], $234::BIGINT[], $235::TEXT[], $236::TEXT[], $237::TEXT[], $238::BIGINT[], $239::DOUBLE PRECISION[], $240::DOUBLE PRECISION[], $241::TEXT[], $242::BIGINT[], $243::BOOLEAN[], $244::TEXT[], $245::BOOLEAN[], $246::TEXT[], $247::TEXT[]) AS starttraced_rows(workflow_id, claim, step_id, child_id, name, input, queue, priority, delay, timeout, codec, token, ends_with_parent, key, releases_key, partition_key, trace)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = starttraced_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS starttraced_held
JOIN pgqrs.pgqrs_workflows AS parent ON parent.id = starttraced_held.workflow_id
WHERE starttraced_held.current_claim = starttraced_held.claim
ORDER BY starttraced_held.child_id
ON CONFLICT DO NOTHING
RETURNING 'starttraced' AS kind, pgqrs.pgqrs_workflows.parent_id AS workflow_id, pgqrs.pgqrs_workflows.parent_step AS key, 1 AS epoch),
starttracedattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT starttracedattributes_rows.owner_id AS owner_id, CAST(starttracedattributes_rows.attributes AS JSONB) AS attributes, CAST(starttracedattributes_rows.tags AS TEXT[]) AS tags
FROM unnest($226::BIGINT[], $227::TEXT[], $228::BIGINT[], $229::TEXT[], $230::TEXT[]) AS starttracedattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN starttraced_done ON starttraced_done.workflow_id = starttracedattributes_rows.workflow_id
AND starttracedattributes_rows.key IS NOT DISTINCT
FROM starttraced_done.key
ORDER BY starttracedattributes_rows.owner_id
ON CONFLICT DO NOTHING),
stateful_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT stateful_held.workflow_id AS workflow_id, stateful_held.step_id AS step_id, CASE WHEN (stateful_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (stateful_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_29, stateful_held.current_epoch AS current_epoch, now() - stateful_held.elapsed * interval '1 second' AS anon_30, CASE WHEN (coalesce(stateful_held.output, stateful_held.error) IS NOT NULL) THEN now() END AS anon_31, CAST(stateful_held.output AS JSON) AS output, CAST(stateful_held.error AS JSON) AS error, stateful_held.fingerprint AS fingerprint
FROM (SELECT stateful_rows.workflow_id AS workflow_id, stateful_rows.claim AS claim, stateful_rows.step_id AS step_id, stateful_rows.output AS output, stateful_rows.error AS error, stateful_rows.elapsed AS elapsed, stateful_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($253::BIGINT[], $254::BIGINT[], $255::TEXT[], $256::TEXT[], $257::TEXT[], $258::DOUBLE PRECISION[], $259::BIGINT[]) AS stateful_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = stateful_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS stateful_held
WHERE stateful_held.current_claim = stateful_held.claim
ORDER BY stateful_held.workflow_id, stateful_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'stateful' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
states_newest AS
(SELECT changes.workflow AS workflow, changes.partition_key AS partition_key, changes.name AS name, changes.value AS value, changes.codec AS codec, changes.age AS age
FROM (SELECT pgqrs.pgqrs_workflows.name AS workflow, pgqrs.pgqrs_workflows.partition_key AS partition_key, states_rows.name AS name, states_rows.value AS value, states_rows.codec AS codec, pg_catalog.row_number() OVER (PARTITION BY pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.partition_key, states_rows.name
ORDER BY states_rows.number DESC) AS age
FROM unnest($248::BIGINT[], $249::TEXT[], $250::TEXT[], $251::TEXT[], $252::TEXT[]) WITH ORDINALITY AS states_rows(workflow_id, step_id, name, value, codec, number)
JOIN stateful_done ON stateful_done.workflow_id = states_rows.workflow_id
AND stateful_done.key = states_rows.step_id
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = states_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.partition_key IS NOT NULL) AS changes
WHERE changes.age = 1),
states_deleted AS
(DELETE
FROM pgqrs.pgqrs_states USING states_newest
WHERE pgqrs.pgqrs_states.workflow = states_newest.workflow
AND pgqrs.pgqrs_states.partition_key = states_newest.partition_key
AND pgqrs.pgqrs_states.name = states_newest.name
AND states_newest.value IS NULL),
states_done AS
(INSERT INTO pgqrs.pgqrs_states (workflow, partition_key, name, value, codec, set_at) SELECT states_newest.workflow AS workflow, states_newest.partition_key AS partition_key, states_newest.name AS name, CAST(states_newest.value AS JSON) AS value, states_newest.codec AS codec, now() AS now_3
FROM states_newest
WHERE states_newest.value IS NOT NULL
ORDER BY states_newest.workflow, states_newest.partition_key, states_newest.name
ON CONFLICT (workflow, partition_key, name)
DO UPDATE
SET value = excluded.value, codec = excluded.codec, set_at = excluded.set_at),
waiting_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint, retry_at) SELECT waiting_rows.workflow_id AS workflow_id, waiting_rows.step_id AS step_id, CASE WHEN waiting_rows.is_over THEN 'SUCCESS' ELSE 'RUNNING' END AS anon_32, leave_done.epoch AS epoch, now() - waiting_rows.elapsed * interval '1 second' AS anon_33, CASE WHEN waiting_rows.is_over THEN now() END AS anon_34, CAST(waiting_rows.output AS JSON) AS output, CAST(waiting_rows.error AS JSON) AS error, waiting_rows.fingerprint AS fingerprint, now() + waiting_rows.seconds * interval '1 second' AS anon_35
FROM unnest($260::BIGINT[], $261::BIGINT[], $262::TEXT[], $263::TEXT[], $264::TEXT[], $265::DOUBLE PRECISION[], $266::BIGINT[], $267::DOUBLE PRECISION[], $268::BOOLEAN[]) AS waiting_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint, seconds, is_over)
JOIN leave_done ON leave_done.workflow_id = waiting_rows.workflow_id
WHERE leave_done.epoch > 0
ORDER BY waiting_rows.workflow_id, waiting_rows.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint, failures = 0, retry_at = coalesce(CASE WHEN NOT pgqrs.pgqrs_workflow_steps.reopened THEN pgqrs.pgqrs_workflow_steps.retry_at END, excluded.retry_at)
WHERE pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
OR pgqrs.pgqrs_workflow_steps.reopened),
continue_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' WHEN (continue_held.next_claim IS NOT NULL) THEN 'RUNNING' ELSE 'PENDING' END, epoch=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.epoch WHEN (continue_held.next_claim IS NOT NULL) THEN pgqrs.pgqrs_workflows.epoch + 1 ELSE pgqrs.pgqrs_workflows.epoch END, claim=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.claim ELSE continue_held.next_claim END, started_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.started_at WHEN (continue_held.next_claim IS NOT NULL) THEN now() END, completed_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN now() END, updated_at=now(), input=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.input ELSE CAST(continue_held.input AS JSON) END, error=NULL, queue=CASE WHEN (continue_held.next_claim IS NOT NULL) THEN pgqrs.pgqrs_workflows.queue ELSE coalesce(pgqrs.pgqrs_workflows.queue, 'default') END, ready_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN NULL WHEN (continue_held.next_claim IS NOT NULL) THEN NULL ELSE now() END, executor=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN NULL WHEN (continue_held.next_claim IS NOT NULL) THEN pgqrs.pgqrs_workflows.executor END, attempts=0, retries=0, deadline=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN NULL WHEN (continue_held.next_claim IS NOT NULL) THEN least((SELECT parent.deadline
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_workflows.parent_id), now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, continue_held.timeout) * interval '1 second') ELSE (SELECT parent.deadline
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = pgqrs.pgqrs_workflows.parent_id) END, cancel_interrupts=NULL, saga_state=NULL, generation=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN pgqrs.pgqrs_workflows.generation ELSE pgqrs.pgqrs_workflows.epoch END
FROM (SELECT continue_rows.workflow_id AS workflow_id, continue_rows.claim AS claim, continue_rows.input AS input, continue_rows.timeout AS timeout, continue_rows.next_claim AS next_claim, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($269::BIGINT[], $270::BIGINT[], $271::TEXT[], $272::DOUBLE PRECISION[], $273::BIGINT[]) AS continue_rows(workflow_id, claim, input, timeout, next_claim)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = continue_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS continue_held
WHERE pgqrs.pgqrs_workflows.id = continue_held.workflow_id
AND continue_held.current_claim = continue_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
AND pgqrs.pgqrs_workflows.executor IS DISTINCT
FROM '00000000-0000-0000-0000-000000000000'::uuid
RETURNING 'continue' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, CASE WHEN (pgqrs.pgqrs_workflows.status = 'CANCELLED') THEN -pgqrs.pgqrs_workflows.epoch ELSE pgqrs.pgqrs_workflows.epoch END AS epoch),
continue_steps AS
(DELETE
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(continued.workflow_id) AS array_agg_1
FROM (SELECT continue_done.workflow_id AS workflow_id
FROM continue_done
WHERE continue_done.epoch > 0) AS continued), '{}'))),
outgoing_done AS
(SELECT 'outgoing' AS kind, outgoing_held.workflow_id AS workflow_id, outgoing_held.step_id AS key, CASE WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflows AS receiver
WHERE receiver.id = outgoing_held.receiver
AND ((receiver.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED'))
OR (SELECT 1
FROM pgqrs.pgqrs_messages AS sent
WHERE sent.address = outgoing_held.address
AND sent.key = outgoing_held.key

LIMIT 1) IS NOT NULL)
AND (outgoing_held.codec IS NULL
OR outgoing_held.codec = receiver.codec
OR outgoing_held.codec = 'json'
AND NOT pg_catalog.starts_with(coalesce(receiver.codec, ''), 'fernet+'))

LIMIT 1) IS NOT NULL) THEN outgoing_held.current_epoch ELSE 0 END AS epoch, outgoing_held.output AS output, outgoing_held.elapsed AS elapsed, outgoing_held.receiver AS receiver, outgoing_held.address AS address, outgoing_held.key AS message_key, outgoing_held.is_kept AS is_kept, outgoing_held.payload AS payload
FROM (SELECT outgoing_rows.workflow_id AS workflow_id, outgoing_rows.claim AS claim, outgoing_rows.step_id AS step_id, outgoing_rows.output AS output, outgoing_rows.elapsed AS elapsed, outgoing_rows.receiver AS receiver, outgoing_rows.address AS address, outgoing_rows.key AS key, outgoing_rows.is_kept AS is_kept, outgoing_rows.payload AS payload, outgoing_rows.codec AS codec, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($274::BIGINT[], $275::BIGINT[], $276::TEXT[], $277::TEXT[], $278::DOUBLE PRECISION[], $279::BIGINT[], $280::TEXT[], $281::TEXT[], $282::BOOLEAN[], $283::TEXT[], $284::TEXT[]) AS outgoing_rows(workflow_id, claim, step_id, output, elapsed, receiver, address, key, is_kept, payload, codec)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = outgoing_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS outgoing_held
WHERE outgoing_held.current_claim = outgoing_held.claim
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = outgoing_held.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = outgoing_held.step_id
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'
AND NOT pgqrs.pgqrs_workflow_steps.reopened))),
outgoing_outcomes AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output) SELECT outgoing_done.workflow_id AS workflow_id, outgoing_done.key AS key, 'SUCCESS', outgoing_done.epoch AS epoch, now() - outgoing_done.elapsed * interval '1 second' AS anon_36, now() AS now_4, CAST(outgoing_done.output AS JSON) AS output
FROM outgoing_done
WHERE outgoing_done.epoch != 0
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, completed_at = excluded.completed_at, output = excluded.output, error = NULL, failures = 0, retry_at = NULL
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING pgqrs.pgqrs_workflow_steps.workflow_id, pgqrs.pgqrs_workflow_steps.step_id),
outgoing_messages AS
(INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload) SELECT outgoing_done.receiver AS receiver, outgoing_done.address AS address, outgoing_done.message_key AS message_key, outgoing_done.is_kept AS is_kept, CAST(outgoing_done.payload AS JSON) AS payload
FROM outgoing_done
WHERE ((outgoing_done.workflow_id, outgoing_done.key) IN (SELECT outgoing_outcomes.workflow_id, outgoing_outcomes.step_id
FROM outgoing_outcomes)) IS true
ORDER BY outgoing_done.address, outgoing_done.message_key
ON CONFLICT DO NOTHING),
send_done AS
(SELECT 'send' AS kind, send_rows.workflow_id AS workflow_id, send_rows.key AS key, 1 AS epoch, send_rows.address AS address, send_rows.is_kept AS is_kept, CAST(send_rows.payload AS JSON) AS payload, send_rows.turn AS turn
FROM unnest($285::BIGINT[], $286::TEXT[], $287::TEXT[], $288::BOOLEAN[], $289::TEXT[], $290::TEXT[], $291::BIGINT[]) WITH ORDINALITY AS send_rows(workflow_id, address, key, is_kept, payload, codec, token, turn)
JOIN pgqrs.pgqrs_workflows ON true
WHERE pgqrs.pgqrs_workflows.id = send_rows.workflow_id
AND ((pgqrs.pgqrs_workflows.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED'))
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = send_rows.address
AND pgqrs.pgqrs_messages.key = send_rows.key)))
AND coalesce(send_rows.token, pgqrs.pgqrs_workflows.token) IS NOT DISTINCT
FROM pgqrs.pgqrs_workflows.token
AND (send_rows.codec IS NULL
OR send_rows.codec = pgqrs.pgqrs_workflows.codec
OR send_rows.codec = 'json'
AND NOT pg_catalog.starts_with(coalesce(pgqrs.pgqrs_workflows.codec, ''), 'fernet+'))),
send_messages AS
(INSERT INTO pgqrs.pgqrs_messages (workflow_id, address, key, is_kept, payload) SELECT send_done.workflow_id AS workflow_id, send_done.address AS address, send_done.key AS key, send_done.is_kept AS is_kept, send_done.payload AS payload
FROM send_done
ORDER BY send_done.turn
ON CONFLICT DO NOTHING),
start_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status='RUNNING', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=start_held.claim, started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), completed_at=NULL, updated_at=now(), error=NULL, ready_at=NULL, due_at=NULL, executor=start_held.executor, retries=CASE WHEN (pgqrs.pgqrs_workflows.status = 'ERROR') THEN 0 ELSE pgqrs.pgqrs_workflows.retries END, deadline=CASE WHEN (pgqrs.pgqrs_workflows.started_at IS NULL) THEN least(pgqrs.pgqrs_workflows.deadline, now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, start_held.timeout) * interval '1 second') ELSE coalesce(pgqrs.pgqrs_workflows.deadline, now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, start_held.timeout) * interval '1 second') END
FROM (SELECT start_rows.workflow_id AS workflow_id, start_rows.claim AS claim, start_rows.executor AS executor, start_rows.timeout AS timeout, start_rows.codec AS codec, start_rows.token AS token, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($292::BIGINT[], $293::BIGINT[], $294::UUID[], $295::DOUBLE PRECISION[], $296::TEXT[], $297::BIGINT[]) AS start_rows(workflow_id, claim, executor, timeout, codec, token)
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
start_waits AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(start_done.workflow_id) AS array_agg_2
FROM start_done), '{}'))),
startkeyed_parents AS
(UPDATE pgqrs.pgqrs_workflows
SET has_children=true
FROM startkeyed_done
WHERE pgqrs.pgqrs_workflows.id = startkeyed_done.workflow_id
AND pgqrs.pgqrs_workflows.has_children IS false),
starttraced_parents AS
(UPDATE pgqrs.pgqrs_workflows
SET has_children=true
FROM starttraced_done
WHERE pgqrs.pgqrs_workflows.id = starttraced_done.workflow_id
AND pgqrs.pgqrs_workflows.has_children IS false),
take_done AS
(SELECT 'take' AS kind, take_held.workflow_id AS workflow_id, take_held.step_id AS key, take_held.current_epoch AS epoch, answer.id AS message, answer.address AS address, CASE WHEN (answer.payload IS NOT NULL) THEN CAST(answer.payload AS TEXT) ELSE take_held.output END AS output, CASE WHEN (answer.payload IS NULL) THEN take_held.error END AS error, take_held.elapsed AS elapsed, take_held.fingerprint AS fingerprint
FROM (SELECT take_rows.workflow_id AS workflow_id, take_rows.claim AS claim, take_rows.step_id AS step_id, take_rows.addresses AS addresses, take_rows.output AS output, take_rows.error AS error, take_rows.elapsed AS elapsed, take_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($298::BIGINT[], $299::BIGINT[], $300::TEXT[], $301::TEXT[], $302::TEXT[], $303::TEXT[], $304::DOUBLE PRECISION[], $305::BIGINT[]) AS take_rows(workflow_id, claim, step_id, addresses, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = take_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS take_held
LEFT OUTER
JOIN LATERAL (SELECT oldest.id AS id, coalesce(oldest.payload, ended.payload) AS payload, given.address AS address
FROM pg_catalog.unnest(pg_catalog.string_to_array(take_held.addresses, '
')) AS given(address)
LEFT OUTER
JOIN LATERAL (SELECT pgqrs.pgqrs_messages.id AS id, pgqrs.pgqrs_messages.payload AS payload
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = given.address
AND pgqrs.pgqrs_messages.taken_at IS NULL
AND NOT pg_catalog.starts_with(given.address, 'c/')
ORDER BY pgqrs.pgqrs_messages.id

LIMIT 1) AS oldest ON true
LEFT OUTER
JOIN LATERAL (SELECT CAST(CASE WHEN (pg_catalog.count(*) = 1) THEN pg_catalog.concat('{"id":', pg_catalog.min(child.id), ',"status":"', pg_catalog.min(child.status), '","value":', pg_catalog.min(coalesce(CAST(child.output AS TEXT), CAST(child.error AS TEXT), 'null')) FILTER (WHERE child.place = 0), '}') ELSE pg_catalog.concat('{"failed":', coalesce(pg_catalog.json_agg(child.place
ORDER BY child.place) FILTER (WHERE child.status != 'SUCCESS'), CAST('[]' AS JSON)), '}') END AS JSON) AS payload
FROM pgqrs.pgqrs_workflows AS child
WHERE pg_catalog.starts_with(given.address, 'c/')
AND child.parent_id = CASE WHEN pg_catalog.starts_with(given.address, 'c/') THEN CAST(pg_catalog.split_part(given.address, '/', 2) AS BIGINT) END
AND child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(given.address, CAST(pg_catalog.length(pg_catalog.split_part(given.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = CASE WHEN pg_catalog.starts_with(given.address, 'c/') THEN CAST(pg_catalog.split_part(given.address, '/', 2) AS BIGINT) END
AND live_child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(given.address, CAST(pg_catalog.length(pg_catalog.split_part(given.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND live_child.completed_at IS NULL

LIMIT 1) IS NULL
HAVING 0 < pg_catalog.count(*)) AS ended ON true
WHERE coalesce(oldest.payload, ended.payload) IS NOT NULL
ORDER BY oldest.id

LIMIT 1) AS answer ON true
WHERE take_held.current_claim = take_held.claim
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = take_held.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = take_held.step_id
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'
AND NOT pgqrs.pgqrs_workflow_steps.reopened))),
take_outcomes AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint, address) SELECT take_done.workflow_id AS workflow_id, take_done.key AS key, CASE WHEN (take_done.output IS NOT NULL) THEN 'SUCCESS' ELSE 'ERROR' END AS anon_37, take_done.epoch AS epoch, now() - take_done.elapsed * interval '1 second' AS anon_38, now() AS now_5, CAST(take_done.output AS JSON) AS output, CAST(take_done.error AS JSON) AS error, take_done.fingerprint AS fingerprint, take_done.address AS address
FROM take_done
WHERE coalesce(take_done.output, take_done.error) IS NOT NULL
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint, failures = 0, retry_at = NULL, address = excluded.address
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)),
take_messages AS
(UPDATE pgqrs.pgqrs_messages
SET is_new=false, taken_at=now()
FROM take_done
WHERE pgqrs.pgqrs_messages.id = take_done.message
AND NOT pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'e/')),
take_children AS
(DELETE
FROM pgqrs.pgqrs_messages USING take_done
WHERE pgqrs.pgqrs_messages.address = take_done.address
AND pg_catalog.starts_with(take_done.address, 'c/')),
begin_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, executor, status, epoch, claim, started_at, timeout, deadline, codec) SELECT begin_rows.workflow_id AS workflow_id, begin_rows.name AS name, CAST(begin_rows.input AS JSON) AS input, begin_rows.token AS token, begin_rows.executor AS executor, 'RUNNING', 1, begin_rows.token AS token__1, now() AS now_6, begin_rows.timeout AS timeout, now() + begin_rows.timeout * interval '1 second' AS anon_39, begin_rows.codec AS codec
FROM unnest($306::BIGINT[], $307::TEXT[], $308::TEXT[], $309::UUID[], $310::DOUBLE PRECISION[], $311::TEXT[], $312::BIGINT[]) AS begin_rows(workflow_id, name, input, executor, timeout, codec, token)
ORDER BY begin_rows.workflow_id
RETURNING 'begin' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
beginagain_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, executor, status, epoch, claim, started_at, timeout, deadline, codec) SELECT beginagain_rows.workflow_id AS workflow_id, beginagain_rows.name AS name, CAST(beginagain_rows.input AS JSON) AS input, beginagain_rows.token AS token, beginagain_rows.executor AS executor, 'RUNNING', 1, beginagain_rows.token AS token__2, now() AS now_7, beginagain_rows.timeout AS timeout, now() + beginagain_rows.timeout * interval '1 second' AS anon_40, beginagain_rows.codec AS codec
FROM unnest($313::BIGINT[], $314::TEXT[], $315::TEXT[], $316::UUID[], $317::DOUBLE PRECISION[], $318::TEXT[], $319::BIGINT[]) AS beginagain_rows(workflow_id, name, input, executor, timeout, codec, token)
ORDER BY beginagain_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'beginagain' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
create_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, codec) SELECT create_rows.workflow_id AS workflow_id, create_rows.name AS name, CAST(create_rows.input AS JSON) AS input, create_rows.token AS token, create_rows.codec AS codec
FROM unnest($320::BIGINT[], $321::TEXT[], $322::TEXT[], $323::TEXT[], $324::BIGINT[]) AS create_rows(workflow_id, name, input, codec, token)
ORDER BY create_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'create' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
emit_done AS
(INSERT INTO pgqrs.pgqrs_messages (address, key, payload) SELECT emit_rows.address AS address, '', CAST(emit_rows.payload AS JSON) AS payload
FROM unnest($325::BIGINT[], $326::TEXT[], $327::TEXT[]) AS emit_rows(workflow_id, address, payload)
ORDER BY emit_rows.address
ON CONFLICT (address, key)
DO UPDATE
SET key = excluded.key
WHERE CAST(pgqrs.pgqrs_messages.payload AS TEXT) = CAST(excluded.payload AS TEXT)
RETURNING 'emit' AS kind, 0 AS workflow_id, pgqrs.pgqrs_messages.address AS key, 1 AS epoch),
failure_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, error, fingerprint, failures, retry_at) SELECT failure_held.workflow_id AS workflow_id, failure_held.step_id AS step_id, 'RUNNING', failure_held.current_epoch AS current_epoch, now() - failure_held.elapsed * interval '1 second' AS anon_41, CAST(failure_held.error AS JSON) AS error, failure_held.fingerprint AS fingerprint, failure_held.failures AS failures, now() + failure_held.delay * interval '1 second' AS anon_42
FROM (SELECT failure_rows.workflow_id AS workflow_id, failure_rows.claim AS claim, failure_rows.step_id AS step_id, failure_rows.error AS error, failure_rows.elapsed AS elapsed, failure_rows.fingerprint AS fingerprint, failure_rows.failures AS failures, failure_rows.delay AS delay, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($328::BIGINT[], $329::BIGINT[], $330::TEXT[], $331::TEXT[], $332::DOUBLE PRECISION[], $333::BIGINT[], $334::BIGINT[], $335::DOUBLE PRECISION[]) AS failure_rows(workflow_id, claim, step_id, error, elapsed, fingerprint, failures, delay)
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
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT last_held.workflow_id AS workflow_id, last_held.step_id AS step_id, CASE WHEN (last_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (last_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_43, last_held.current_epoch AS current_epoch, clock_timestamp() - last_held.elapsed * interval '1 second' AS anon_44, CASE WHEN (coalesce(last_held.output, last_held.error) IS NOT NULL) THEN clock_timestamp() END AS anon_45, CAST(last_held.output AS JSON) AS output, CAST(last_held.error AS JSON) AS error, last_held.fingerprint AS fingerprint
FROM (SELECT last_rows.workflow_id AS workflow_id, last_rows.claim AS claim, last_rows.step_id AS step_id, last_rows.output AS output, last_rows.error AS error, last_rows.elapsed AS elapsed, last_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($336::BIGINT[], $337::BIGINT[], $338::TEXT[], $339::TEXT[], $340::TEXT[], $341::DOUBLE PRECISION[], $342::BIGINT[]) AS last_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
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
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, error, fingerprint, failures, retry_at) SELECT lastfailure_held.workflow_id AS workflow_id, lastfailure_held.step_id AS step_id, 'RUNNING', lastfailure_held.current_epoch AS current_epoch, now() - lastfailure_held.elapsed * interval '1 second' AS anon_46, CAST(lastfailure_held.error AS JSON) AS error, lastfailure_held.fingerprint AS fingerprint, lastfailure_held.failures AS failures, now() + lastfailure_held.delay * interval '1 second' AS anon_47
FROM (SELECT lastfailure_rows.workflow_id AS workflow_id, lastfailure_rows.claim AS claim, lastfailure_rows.step_id AS step_id, lastfailure_rows.error AS error, lastfailure_rows.elapsed AS elapsed, lastfailure_rows.fingerprint AS fingerprint, lastfailure_rows.failures AS failures, lastfailure_rows.delay AS delay, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($343::BIGINT[], $344::BIGINT[], $345::TEXT[], $346::TEXT[], $347::DOUBLE PRECISION[], $348::BIGINT[], $349::BIGINT[], $350::DOUBLE PRECISION[]) AS lastfailure_rows(workflow_id, claim, step_id, error, elapsed, fingerprint, failures, delay)
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
new_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT new_held.workflow_id AS workflow_id, new_held.step_id AS step_id, CASE WHEN (new_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (new_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_48, new_held.current_epoch AS current_epoch, now() - new_held.elapsed * interval '1 second' AS anon_49, CASE WHEN (coalesce(new_held.output, new_held.error) IS NOT NULL) THEN now() END AS anon_50, CAST(new_held.output AS JSON) AS output, CAST(new_held.error AS JSON) AS error, new_held.fingerprint AS fingerprint
FROM (SELECT new_rows.workflow_id AS workflow_id, new_rows.claim AS claim, new_rows.step_id AS step_id, new_rows.output AS output, new_rows.error AS error, new_rows.elapsed AS elapsed, new_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($351::BIGINT[], $352::BIGINT[], $353::TEXT[], $354::TEXT[], $355::TEXT[], $356::DOUBLE PRECISION[], $357::BIGINT[]) AS new_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = new_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS new_held
WHERE new_held.current_claim = new_held.claim
ORDER BY new_held.workflow_id, new_held.step_id
RETURNING 'new' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
saga_done AS
(UPDATE pgqrs.pgqrs_workflows
SET deadline=CASE WHEN (coalesce(saga_held.state, 'OPEN') = 'OPEN') THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=CASE WHEN (coalesce(saga_held.state, 'OPEN') = 'OPEN') THEN pgqrs.pgqrs_workflows.cancel_interrupts END, saga_state=CASE WHEN (coalesce(saga_held.state, 'OPEN') != 'OPEN'
OR NOT coalesce(pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN', false)) THEN saga_held.state ELSE pgqrs.pgqrs_workflows.saga_state END
FROM (SELECT saga_rows.workflow_id AS workflow_id, saga_rows.claim AS claim, saga_rows.state AS state, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($358::BIGINT[], $359::BIGINT[], $360::TEXT[]) AS saga_rows(workflow_id, claim, state)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = saga_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS saga_held
WHERE pgqrs.pgqrs_workflows.id = saga_held.workflow_id
AND saga_held.current_claim = saga_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
RETURNING 'saga' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
step_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT step_held.workflow_id AS workflow_id, step_held.step_id AS step_id, CASE WHEN (step_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (step_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_51, step_held.current_epoch AS current_epoch, now() - step_held.elapsed * interval '1 second' AS anon_52, CASE WHEN (coalesce(step_held.output, step_held.error) IS NOT NULL) THEN now() END AS anon_53, CAST(step_held.output AS JSON) AS output, CAST(step_held.error AS JSON) AS error, step_held.fingerprint AS fingerprint
FROM (SELECT step_rows.workflow_id AS workflow_id, step_rows.claim AS claim, step_rows.step_id AS step_id, step_rows.output AS output, step_rows.error AS error, step_rows.elapsed AS elapsed, step_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($361::BIGINT[], $362::BIGINT[], $363::TEXT[], $364::TEXT[], $365::TEXT[], $366::DOUBLE PRECISION[], $367::BIGINT[]) AS step_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
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
RETURNING 'step' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch),
wait_done AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output, error, fingerprint, retry_at) SELECT wait_held.workflow_id AS workflow_id, wait_held.step_id AS step_id, 'RUNNING', wait_held.current_epoch AS current_epoch, now() - wait_held.elapsed * interval '1 second' AS anon_54, CAST(wait_held.output AS JSON) AS output, CAST(wait_held.error AS JSON) AS error, wait_held.fingerprint AS fingerprint, now() + wait_held.seconds * interval '1 second' AS anon_55
FROM (SELECT wait_rows.workflow_id AS workflow_id, wait_rows.claim AS claim, wait_rows.step_id AS step_id, wait_rows.output AS output, wait_rows.error AS error, wait_rows.elapsed AS elapsed, wait_rows.fingerprint AS fingerprint, wait_rows.seconds AS seconds, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($368::BIGINT[], $369::BIGINT[], $370::TEXT[], $371::TEXT[], $372::TEXT[], $373::DOUBLE PRECISION[], $374::BIGINT[], $375::DOUBLE PRECISION[]) AS wait_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint, seconds)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = wait_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS wait_held
WHERE wait_held.current_claim = wait_held.claim
ORDER BY wait_held.workflow_id, wait_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = NULL, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint, failures = 0, retry_at = excluded.retry_at
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'wait' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS key, pgqrs.pgqrs_workflow_steps.epoch AS epoch)
 SELECT begin_done.kind, begin_done.workflow_id, begin_done.key, begin_done.epoch
FROM begin_done
UNION ALL SELECT beginagain_done.kind, beginagain_done.workflow_id, beginagain_done.key, beginagain_done.epoch
FROM beginagain_done
UNION ALL SELECT continue_done.kind, continue_done.workflow_id, continue_done.key, continue_done.epoch
FROM continue_done
UNION ALL SELECT create_done.kind, create_done.workflow_id, create_done.key, create_done.epoch
FROM create_done
UNION ALL SELECT emit_done.kind, emit_done.workflow_id, emit_done.key, emit_done.epoch
FROM emit_done
UNION ALL SELECT end_done.kind, end_done.workflow_id, end_done.key, end_done.epoch
FROM end_done
UNION ALL SELECT enqueue_done.kind, enqueue_done.workflow_id, enqueue_done.key, enqueue_done.epoch
FROM enqueue_done
UNION ALL SELECT enqueuepartitioned_done.kind, enqueuepartitioned_done.workflow_id, enqueuepartitioned_done.key, enqueuepartitioned_done.epoch
FROM enqueuepartitioned_done
UNION ALL SELECT enqueuetraced_done.kind, enqueuetraced_done.workflow_id, enqueuetraced_done.key, enqueuetraced_done.epoch
FROM enqueuetraced_done
UNION ALL SELECT enqueueuntilend_done.kind, enqueueuntilend_done.workflow_id, enqueueuntilend_done.key, enqueueuntilend_done.epoch
FROM enqueueuntilend_done
UNION ALL SELECT failure_done.kind, failure_done.workflow_id, failure_done.key, failure_done.epoch
FROM failure_done
UNION ALL SELECT last_done.kind, last_done.workflow_id, last_done.key, last_done.epoch
FROM last_done
UNION ALL SELECT lastfailure_done.kind, lastfailure_done.workflow_id, lastfailure_done.key, lastfailure_done.epoch
FROM lastfailure_done
UNION ALL SELECT leave_done.kind, leave_done.workflow_id, leave_done.key, leave_done.epoch
FROM leave_done
UNION ALL SELECT new_done.kind, new_done.workflow_id, new_done.key, new_done.epoch
FROM new_done
UNION ALL SELECT outgoing_done.kind, outgoing_done.workflow_id, outgoing_done.key, outgoing_done.epoch
FROM outgoing_done
UNION ALL SELECT saga_done.kind, saga_done.workflow_id, saga_done.key, saga_done.epoch
FROM saga_done
UNION ALL SELECT send_done.kind, send_done.workflow_id, send_done.key, send_done.epoch
FROM send_done
UNION ALL SELECT sending_done.kind, sending_done.workflow_id, sending_done.key, sending_done.epoch
FROM sending_done
UNION ALL SELECT start_done.kind, start_done.workflow_id, start_done.key, start_done.epoch
FROM start_done
UNION ALL SELECT startkeyed_done.kind, startkeyed_done.workflow_id, startkeyed_done.key, startkeyed_done.epoch
FROM startkeyed_done
UNION ALL SELECT startmany_done.kind, startmany_done.workflow_id, startmany_done.key, startmany_done.epoch
FROM startmany_done
UNION ALL SELECT starttraced_done.kind, starttraced_done.workflow_id, starttraced_done.key, starttraced_done.epoch
FROM starttraced_done
UNION ALL SELECT stateful_done.kind, stateful_done.workflow_id, stateful_done.key, stateful_done.epoch
FROM stateful_done
UNION ALL SELECT step_done.kind, step_done.workflow_id, step_done.key, step_done.epoch
FROM step_done
UNION ALL SELECT take_done.kind, take_done.workflow_id, take_done.key, take_done.epoch
FROM take_done
WHERE coalesce(take_done.output, take_done.error) IS NULL
UNION ALL SELECT wait_done.kind, wait_done.workflow_id, wait_done.key, wait_done.epoch
FROM wait_done
