WITH enqueuepartitioned_done AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, partition_key, releases_key) SELECT enqueuepartitioned_rows.workflow_id AS workflow_id, enqueuepartitioned_rows.name AS name, CAST(enqueuepartitioned_rows.input AS JSON) AS input, enqueuepartitioned_rows.token AS token, enqueuepartitioned_rows.queue AS queue, enqueuepartitioned_rows.priority AS priority, CASE WHEN (enqueuepartitioned_rows.delay IS NULL) THEN now() END AS anon_1, now() + enqueuepartitioned_rows.delay * interval '1 second' AS anon_2, enqueuepartitioned_rows.timeout AS timeout, enqueuepartitioned_rows.key AS key, enqueuepartitioned_rows.codec AS codec, enqueuepartitioned_rows.partition_key AS partition_key, enqueuepartitioned_rows.releases_key AS releases_key
FROM unnest(CAST($6::TEXT AS BIGINT[]), $7::TEXT[], $8::TEXT[], $9::TEXT[], CAST($10::TEXT AS BIGINT[]), CAST($11::TEXT AS DOUBLE PRECISION[]), CAST($12::TEXT AS DOUBLE PRECISION[]), $13::TEXT[], $14::TEXT[], CAST($15::TEXT AS BIGINT[]), $16::TEXT[], CAST($17::TEXT AS BOOLEAN[])) AS enqueuepartitioned_rows(workflow_id, name, input, queue, priority, delay, timeout, key, codec, token, partition_key, releases_key)
ORDER BY enqueuepartitioned_rows.workflow_id
ON CONFLICT DO NOTHING
RETURNING 'enqueuepartitioned' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS key, pgqrs.pgqrs_workflows.epoch AS epoch),
enqueuepartitionedattributes_done AS
(INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT enqueuepartitionedattributes_rows.owner_id AS owner_id, CAST(enqueuepartitionedattributes_rows.attributes AS JSONB) AS attributes, CAST(enqueuepartitionedattributes_rows.tags AS TEXT[]) AS tags
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], CAST($3::TEXT AS BIGINT[]), $4::TEXT[], $5::TEXT[]) AS enqueuepartitionedattributes_rows(workflow_id, key, owner_id, attributes, tags)
JOIN enqueuepartitioned_done ON enqueuepartitioned_done.workflow_id = enqueuepartitionedattributes_rows.workflow_id
AND enqueuepartitionedattributes_rows.key IS NOT DISTINCT
FROM enqueuepartitioned_done.key
ORDER BY enqueuepartitionedattributes_rows.owner_id
ON CONFLICT DO NOTHING)
 SELECT enqueuepartitioned_done.kind, enqueuepartitioned_done.workflow_id, enqueuepartitioned_done.key, enqueuepartitioned_done.epoch
FROM enqueuepartitioned_done
