SELECT lanes.partition_key, CAST(coalesce(lanes.ready, 0) AS BIGINT) AS ready, CAST(coalesce(lanes.running, 0) AS BIGINT) AS running, CAST(coalesce(lanes.holding, 0) AS BIGINT) AS holding, CAST(EXTRACT(epoch
FROM now() - CASE WHEN (lanes.ready_at IS NOT NULL) THEN least(greatest(lanes.ready_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS DOUBLE PRECISION) AS oldest_age
FROM (SELECT "both".queue AS queue, "both".partition_key AS partition_key, pg_catalog.sum("both".ready) AS ready, pg_catalog.sum("both".ready_holders) AS ready_holders, pg_catalog.sum("both".running) AS running, pg_catalog.sum("both".holding) AS holding, pg_catalog.min("both".ready_at) AS ready_at
FROM (SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 1 AS ready, CASE WHEN (pgqrs.pgqrs_workflows.slot IS NOT NULL) THEN 1 ELSE 0 END AS ready_holders, 0 AS running, CASE WHEN (pgqrs.pgqrs_workflows.slot IS NOT NULL) THEN 1 ELSE 0 END AS holding, pgqrs.pgqrs_workflows.ready_at AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 0, 0, 1, 1, NULL AS anon_1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.executor IS NOT NULL
UNION ALL SELECT pgqrs.pgqrs_workflows.queue AS queue, pgqrs.pgqrs_workflows.partition_key AS partition_key, 0, 0, 0, 1, NULL AS anon_1
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue IS NOT NULL
AND pgqrs.pgqrs_workflows.executor IS NULL
AND pgqrs.pgqrs_workflows.slot IS NOT NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
AND pgqrs.pgqrs_workflows.ready_at IS NULL) AS "both" GROUP BY "both".queue, "both".partition_key) AS lanes
WHERE lanes.queue = $1::TEXT
AND lanes.partition_key IS NOT NULL
ORDER BY lanes.ready + lanes.running DESC, lanes.partition_key

LIMIT 100
