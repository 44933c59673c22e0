WITH enqueueuntilend_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, releases_key) SELECT enqueueuntilend_rows.workflow_id AS workflow_id, enqueueuntilend_rows.name AS name, CAST(enqueueuntilend_rows.input AS JSON) AS input, enqueueuntilend_rows.token AS token, enqueueuntilend_rows.queue AS queue, enqueueuntilend_rows.priority AS priority, CASE WHEN (enqueueuntilend_rows.delay IS NULL) THEN now() END AS anon_1, now() + enqueueuntilend_rows.delay * interval '1 second' AS anon_2, enqueueuntilend_rows.timeout AS timeout, enqueueuntilend_rows.key AS key, enqueueuntilend_rows.codec AS codec, true AS anon_3
FROM unnest(CAST($6::TEXT AS BIGINT[]), $7::TEXT[], $8::TEXT[], $9::TEXT[], CAST($10::TEXT AS BIGINT[]), CAST($11::TEXT AS DOUBLE PRECISION[]), CAST($12::TEXT AS DOUBLE PRECISION[]), $13::TEXT[], $14::TEXT[], CAST($15::TEXT AS BIGINT[])) AS enqueueuntilend_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token)
ORDER BY enqueueuntilend_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueueuntilend' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueueuntilendattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueueuntilendattributes_rows.owner_id AS owner_id, CAST(enqueueuntilendattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueueuntilendattributes_rows.tags AS TEXT[]) AS tags
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], CAST($3::TEXT AS BIGINT[]), $4::TEXT[], $5::TEXT[]) AS enqueueuntilendattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueueuntilend_done ON enqueueuntilend_done.workflow_id = enqueueuntilendattributes_rows.workflow_id
AND enqueueuntilendattributes_rows.key IS NOT DISTINCT
FROM enqueueuntilend_done.key
ORDER BY enqueueuntilendattributes_rows.owner_id
ON CONFLICT DO NOTHING)
 SELECT enqueueuntilend_done.kind, enqueueuntilend_done.workflow_id, enqueueuntilend_done.key, enqueueuntilend_done.epoch
FROM enqueueuntilend_done
