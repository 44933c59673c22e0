WITH enqueue_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec) SELECT enqueue_rows.workflow_id AS workflow_id, enqueue_rows.name AS name, CAST(enqueue_rows.input AS JSON) AS input, enqueue_rows.token AS token, enqueue_rows.queue AS queue, enqueue_rows.priority AS priority, CASE WHEN (enqueue_rows.delay IS NULL) THEN now() END AS anon_1, now() + enqueue_rows.delay * interval '1 second' AS anon_2, enqueue_rows.timeout AS timeout, enqueue_rows.key AS key, enqueue_rows.codec AS codec
FROM unnest(CAST($6::TEXT AS BIGINT[]), $7::TEXT[], $8::TEXT[], $9::TEXT[], CAST($10::TEXT AS BIGINT[]), CAST($11::TEXT AS DOUBLE PRECISION[]), CAST($12::TEXT AS DOUBLE PRECISION[]), $13::TEXT[], $14::TEXT[], CAST($15::TEXT AS BIGINT[])) AS enqueue_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token)
ORDER BY enqueue_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueue' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueueattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueueattributes_rows.owner_id AS owner_id, CAST(enqueueattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueueattributes_rows.tags AS TEXT[]) AS tags
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], CAST($3::TEXT AS BIGINT[]), $4::TEXT[], $5::TEXT[]) AS enqueueattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueue_done ON enqueue_done.workflow_id = enqueueattributes_rows.workflow_id
AND enqueueattributes_rows.key IS NOT DISTINCT
FROM enqueue_done.key
ORDER BY enqueueattributes_rows.owner_id
ON CONFLICT DO NOTHING)
 SELECT enqueue_done.kind, enqueue_done.workflow_id, enqueue_done.key, enqueue_done.epoch
FROM enqueue_done
