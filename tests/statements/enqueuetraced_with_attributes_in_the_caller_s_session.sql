WITH enqueuetraced_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, partition_key, releases_key, trace) SELECT enqueuetraced_rows.workflow_id AS workflow_id, enqueuetraced_rows.name AS name, CAST(enqueuetraced_rows.input AS JSON) AS input, enqueuetraced_rows.token AS token, enqueuetraced_rows.queue AS queue, enqueuetraced_rows.priority AS priority, CASE WHEN (enqueuetraced_rows.delay IS NULL) THEN now() END AS anon_1, now() + enqueuetraced_rows.delay * interval '1 second' AS anon_2, enqueuetraced_rows.timeout AS timeout, enqueuetraced_rows.key AS key, enqueuetraced_rows.codec AS codec, enqueuetraced_rows.partition_key AS partition_key, enqueuetraced_rows.releases_key AS releases_key, enqueuetraced_rows.trace AS trace
FROM unnest(CAST($6::TEXT AS BIGINT[]), $7::TEXT[], $8::TEXT[], $9::TEXT[], CAST($10::TEXT AS BIGINT[]), CAST($11::TEXT AS DOUBLE PRECISION[]), CAST($12::TEXT AS DOUBLE PRECISION[]), $13::TEXT[], $14::TEXT[], CAST($15::TEXT AS BIGINT[]), $16::TEXT[], CAST($17::TEXT AS BOOLEAN[]), $18::TEXT[]) AS enqueuetraced_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, releases_key, trace)
ORDER BY enqueuetraced_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueuetraced' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueuetracedattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueuetracedattributes_rows.owner_id AS owner_id, CAST(enqueuetracedattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueuetracedattributes_rows.tags AS TEXT[]) AS tags
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], CAST($3::TEXT AS BIGINT[]), $4::TEXT[], $5::TEXT[]) AS enqueuetracedattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueuetraced_done ON enqueuetraced_done.workflow_id = enqueuetracedattributes_rows.workflow_id
AND enqueuetracedattributes_rows.key IS NOT DISTINCT
FROM enqueuetraced_done.key
ORDER BY enqueuetracedattributes_rows.owner_id
ON CONFLICT DO NOTHING)
 SELECT enqueuetraced_done.kind, enqueuetraced_done.workflow_id, enqueuetraced_done.key, enqueuetraced_done.epoch
FROM enqueuetraced_done
