WITH messages AS MATERIALIZED
(SELECT pgqrs.pgqrs_messages.id AS id, pgqrs.pgqrs_messages.address AS address
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.is_new
AND NOT pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'x/')
ORDER BY pgqrs.pgqrs_messages.id

LIMIT 2000),
waits AS MATERIALIZED
(SELECT pgqrs.pgqrs_waits.workflow_id AS workflow_id, pgqrs.pgqrs_waits.step_id AS step_id, pgqrs.pgqrs_waits.address AS address
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.is_new

LIMIT 2000),
pairs AS MATERIALIZED
(SELECT workflows.workflow_id AS workflow_id, first.step_id AS step_id, first.address AS address, first.claim AS claim, first.message AS message, first.payload AS payload
FROM (SELECT addressed.workflow_id AS workflow_id
FROM (SELECT pgqrs.pgqrs_waits.workflow_id AS workflow_id
FROM messages
JOIN pgqrs.pgqrs_waits ON pgqrs.pgqrs_waits.address = messages.address

LIMIT 2000) AS addressed
UNION SELECT waits.workflow_id AS workflow_id
FROM waits

LIMIT 2000) AS workflows
JOIN LATERAL (SELECT wait.step_id AS step_id, wait.address AS address, wait.claim AS claim, oldest.id AS message, coalesce(oldest.payload, ended.payload) AS payload
FROM pgqrs.pgqrs_waits AS wait
LEFT OUTER
JOIN LATERAL (SELECT pgqrs.pgqrs_messages.id AS id, pgqrs.pgqrs_messages.payload AS payload
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.address = wait.address
AND pgqrs.pgqrs_messages.taken_at IS NULL
AND NOT pg_catalog.starts_with(wait.address, 'c/')
ORDER BY pgqrs.pgqrs_messages.id

LIMIT 1) AS oldest ON true
LEFT OUTER
JOIN LATERAL (SELECT CAST(CASE WHEN (pg_catalog.count(*) = 1) THEN pg_catalog.concat('{"id":', pg_catalog.min(child.id), ',"status":"', pg_catalog.min(child.status), '","value":', pg_catalog.min(coalesce(CAST(child.output AS TEXT), CAST(child.error AS TEXT), 'null')) FILTER (WHERE child.place = 0), '}') ELSE pg_catalog.concat('{"failed":', coalesce(pg_catalog.json_agg(child.place
ORDER BY child.place) FILTER (WHERE child.status != 'SUCCESS'), CAST('[]' AS JSON)), '}') END AS JSON) AS payload
FROM pgqrs.pgqrs_workflows AS child
WHERE pg_catalog.starts_with(wait.address, 'c/')
AND child.parent_id = CASE WHEN pg_catalog.starts_with(wait.address, 'c/') THEN CAST(pg_catalog.split_part(wait.address, '/', 2) AS BIGINT) END
AND child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(wait.address, CAST(pg_catalog.length(pg_catalog.split_part(wait.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = CASE WHEN pg_catalog.starts_with(wait.address, 'c/') THEN CAST(pg_catalog.split_part(wait.address, '/', 2) AS BIGINT) END
AND live_child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(wait.address, CAST(pg_catalog.length(pg_catalog.split_part(wait.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND live_child.completed_at IS NULL

LIMIT 1) IS NULL
HAVING 0 < pg_catalog.count(*)) AS ended ON true
WHERE wait.workflow_id = workflows.workflow_id
AND coalesce(oldest.payload, ended.payload) IS NOT NULL
ORDER BY oldest.id, wait.step_id

LIMIT 1) AS first ON true),
held AS
(SELECT pairs.workflow_id AS workflow_id, pairs.step_id AS step_id, pairs.address AS address, pairs.claim AS claim, pairs.message AS message, pairs.payload AS payload, found.epoch AS epoch
FROM pairs
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.epoch AS epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = pairs.workflow_id
AND pgqrs.pgqrs_workflows.status = 'WAITING'
AND pgqrs.pgqrs_workflows.claim = pairs.claim
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS found ON true),
recorded AS
(INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, address) SELECT held.workflow_id AS workflow_id, held.step_id AS step_id, 'SUCCESS', held.epoch AS epoch, now() AS now_1, now() AS now_2, held.payload AS payload, held.address AS address
FROM held
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, completed_at = excluded.completed_at, output = excluded.output, error = NULL, retry_at = NULL, address = excluded.address
WHERE pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
RETURNING pgqrs.pgqrs_workflow_steps.workflow_id),
answered AS
(SELECT held.workflow_id AS id, held.message AS message, held.address AS address
FROM held
JOIN recorded ON recorded.workflow_id = held.workflow_id),
dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(answered.id) AS array_agg_1
FROM answered), '{}'))),
taken AS
(UPDATE pgqrs.pgqrs_messages
SET is_new=false, taken_at=now()
FROM answered
WHERE pgqrs.pgqrs_messages.id = answered.message
AND NOT pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'e/')),
deleted AS
(DELETE
FROM pgqrs.pgqrs_messages USING answered
WHERE pgqrs.pgqrs_messages.address = answered.address
AND pg_catalog.starts_with(answered.address, 'c/')),
live AS MATERIALIZED
(SELECT anon_1.address AS address
FROM (SELECT DISTINCT messages.address AS address
FROM messages
WHERE pg_catalog.starts_with(messages.address, 'c/')) AS anon_1
WHERE (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = CASE WHEN pg_catalog.starts_with(anon_1.address, 'c/') THEN CAST(pg_catalog.split_part(anon_1.address, '/', 2) AS BIGINT) END
AND live_child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(anon_1.address, CAST(pg_catalog.length(pg_catalog.split_part(anon_1.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND live_child.completed_at IS NULL

LIMIT 1) IS NOT NULL),
without_wait AS
(SELECT messages.id AS id, messages.address AS address
FROM messages
JOIN LATERAL (SELECT pgqrs.pgqrs_messages.id AS id
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.id = messages.id
AND pgqrs.pgqrs_messages.is_new
AND ((SELECT 1
FROM pgqrs.pgqrs_waits AS wait
WHERE wait.address = pgqrs.pgqrs_messages.address

LIMIT 1) IS NULL
OR pgqrs.pgqrs_messages.address IN (SELECT live.address
FROM live))
FOR UPDATE OF pgqrs_messages SKIP LOCKED) AS found ON true),
seen_messages AS
(UPDATE pgqrs.pgqrs_messages
SET is_new=false
WHERE pgqrs.pgqrs_messages.id = any(coalesce((SELECT pg_catalog.array_agg(without_wait.id) AS array_agg_2
FROM without_wait), '{}'))
AND NOT pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'c/')),
seen_children AS
(DELETE
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.id = any(coalesce((SELECT pg_catalog.array_agg(without_wait.id) AS array_agg_2
FROM without_wait), '{}'))
AND pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'c/')),
without_message AS
(SELECT waits.workflow_id AS workflow_id, waits.step_id AS step_id, waits.address AS address
FROM waits
JOIN LATERAL (SELECT pgqrs.pgqrs_waits.workflow_id AS workflow_id, pgqrs.pgqrs_waits.step_id AS step_id, pgqrs.pgqrs_waits.address AS address
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = waits.workflow_id
AND pgqrs.pgqrs_waits.step_id = waits.step_id
AND pgqrs.pgqrs_waits.address = waits.address
AND pgqrs.pgqrs_waits.is_new
AND NOT CASE WHEN pg_catalog.starts_with(pgqrs.pgqrs_waits.address, 'c/') THEN (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = CASE WHEN pg_catalog.starts_with(pgqrs.pgqrs_waits.address, 'c/') THEN CAST(pg_catalog.split_part(pgqrs.pgqrs_waits.address, '/', 2) AS BIGINT) END
AND live_child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(pgqrs.pgqrs_waits.address, CAST(pg_catalog.length(pg_catalog.split_part(pgqrs.pgqrs_waits.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND live_child.completed_at IS NULL

LIMIT 1) IS NULL ELSE (SELECT 1
FROM pgqrs.pgqrs_messages AS unread
WHERE unread.address = pgqrs.pgqrs_waits.address
AND unread.taken_at IS NULL

LIMIT 1) IS NOT NULL END
AND NOT (EXISTS (SELECT *
FROM pairs
WHERE pairs.workflow_id = pgqrs.pgqrs_waits.workflow_id))
FOR UPDATE OF pgqrs_waits SKIP LOCKED) AS found ON true),
seen_waits AS
(UPDATE pgqrs.pgqrs_waits
SET is_new=false
FROM without_message
WHERE pgqrs.pgqrs_waits.workflow_id = without_message.workflow_id
AND pgqrs.pgqrs_waits.step_id = without_message.step_id
AND pgqrs.pgqrs_waits.address = without_message.address),
woken AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), ready_at=now(), due_at=NULL
FROM answered
WHERE pgqrs.pgqrs_workflows.id = answered.id
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.queue)
 SELECT (SELECT pg_catalog.count(*) AS count_1
FROM woken) AS woken, (SELECT pg_catalog.min(woken.id) AS min_1
FROM woken) AS lowest, (SELECT pg_catalog.array_agg(DISTINCT woken.queue) AS array_agg_3
FROM woken) AS queues, greatest((SELECT pg_catalog.count(*) AS count_1
FROM messages), (SELECT pg_catalog.count(*) AS count_1
FROM waits)) AS seen, EXISTS (SELECT *
FROM pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_messages.is_new
AND pg_catalog.starts_with(pgqrs.pgqrs_messages.address, 'x/')) AS has_ended_parents
