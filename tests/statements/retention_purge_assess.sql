WITH RECURSIVE judged AS MATERIALIZED
(SELECT looked_up.id AS id, looked_up.parent_id AS parent_id, looked_up.reason AS reason
FROM pg_catalog.unnest(CAST($1::TEXT AS BIGINT[])) AS given(id)
JOIN LATERAL (SELECT own.id AS id, own.parent_id AS parent_id, CASE WHEN (own.completed_at IS NULL) THEN 'have not ended' WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = own.id
AND live_child.completed_at IS NULL

LIMIT 1) IS NOT NULL) THEN 'have a child that has not ended' WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflows AS live_batch
WHERE live_batch.id = own.batch_id
AND live_batch.id != own.id
AND live_batch.completed_at IS NULL

LIMIT 1) IS NOT NULL) THEN 'are submissions in a batch that has not ended' WHEN ((SELECT 1
FROM pgqrs.pgqrs_throttles
WHERE pgqrs.pgqrs_throttles.name = own.name
AND pgqrs.pgqrs_throttles.unique_value = own.unique_value
AND pgqrs.pgqrs_throttles.workflow_id = own.id

LIMIT 1) IS NOT NULL) THEN 'are counted by the throttle of their unique value' WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflow_steps AS request
WHERE request.workflow_id = own.id
AND pg_catalog.starts_with(request.address, 'u/')
AND (SELECT 1
FROM pgqrs.pgqrs_messages AS reply
WHERE reply.address = pg_catalog.concat('r/', pg_catalog.substr(request.address, 3))
AND reply.taken_at > now() - interval '3600.0 second'

LIMIT 1) IS NOT NULL

LIMIT 1) IS NOT NULL) THEN 'have replied within the last hour' END AS reason
FROM pgqrs.pgqrs_workflows AS own
WHERE own.id = given.id

LIMIT 1) AS looked_up ON true),
free AS
(SELECT judged.id AS id, judged.parent_id AS parent_id
FROM judged
WHERE judged.reason IS NULL),
gone(id) AS
(SELECT free.id AS id
FROM free
WHERE free.parent_id IS NULL
OR (SELECT 1
FROM pgqrs.pgqrs_workflows AS parent
WHERE parent.id = free.parent_id

LIMIT 1) IS NULL
UNION SELECT free.id AS id
FROM free
JOIN gone ON free.parent_id = gone.id)
 SELECT judged.id, CASE WHEN (gone.id IS NULL) THEN coalesce(judged.reason, 'are children of a workflow that stays') END AS reason
FROM judged
LEFT OUTER
JOIN gone ON gone.id = judged.id
