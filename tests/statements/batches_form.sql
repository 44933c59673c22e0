WITH seen AS MATERIALIZED
(SELECT served.queue AS queue, served.name AS name, served.run AS run, served.size AS size, served.within AS within, served.timeout AS timeout, ready.id AS id, ready.partition_key AS partition_key, ready.priority AS priority, ready.position AS position, ready.ready_at + served.within * interval '1 second' AS due_at
FROM (SELECT queues.queue AS queue, given.name AS name, given.run AS run, given.size AS size, given.within AS within, given.timeout AS timeout
FROM pg_catalog.unnest($4::TEXT[]) AS queues(queue)
JOIN unnest($5::TEXT[], $6::TEXT[], $7::BIGINT[], $8::DOUBLE PRECISION[], $9::DOUBLE PRECISION[]) AS given(name, run, size, within, timeout) ON true
WHERE (SELECT 1
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = queues.queue
AND pgqrs.pgqrs_queues.paused_at IS NOT NULL

LIMIT 1) IS NULL) AS served
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.partition_key AS partition_key, pgqrs.pgqrs_workflows.priority AS priority, pgqrs.pgqrs_workflows.position AS position, CASE WHEN (pgqrs.pgqrs_workflows.ready_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.ready_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS ready_at
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = served.queue
AND pgqrs.pgqrs_workflows.name = served.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $1::TEXT
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT greatest(2000, served.size * 2)) AS ready ON true),
locked AS MATERIALIZED
(SELECT candidates.queue AS queue, candidates.name AS name, candidates.run AS run, candidates.size AS size, candidates.within AS within, candidates.timeout AS timeout, candidates.id AS id, candidates.partition_key AS partition_key, candidates.priority AS priority, candidates.position AS position, candidates.due_at AS due_at
FROM (SELECT placed.queue AS queue, placed.name AS name, placed.run AS run, placed.size AS size, placed.within AS within, placed.timeout AS timeout, placed.id AS id, placed.partition_key AS partition_key, placed.priority AS priority, placed.position AS position, placed.due_at AS due_at
FROM (SELECT seen.queue AS queue, seen.name AS name, seen.run AS run, seen.size AS size, seen.within AS within, seen.timeout AS timeout, seen.id AS id, seen.partition_key AS partition_key, seen.priority AS priority, seen.position AS position, seen.due_at AS due_at, pg_catalog.row_number() OVER (PARTITION BY seen.queue, seen.name, seen.partition_key
ORDER BY seen.priority DESC, seen.position, seen.id) AS place, pg_catalog.count(seen.id) OVER (PARTITION BY seen.queue, seen.name, seen.partition_key) AS count, pg_catalog.min(seen.due_at) OVER (PARTITION BY seen.queue, seen.name, seen.partition_key) <= now() AS is_due
FROM seen) AS placed
WHERE placed.is_due
OR placed.place <= placed.count - placed.count % placed.size) AS candidates
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = candidates.id
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL

LIMIT 1
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS own ON true),
groups AS MATERIALIZED
(SELECT numbered.queue AS queue, numbered.run AS run, numbered.timeout AS timeout, numbered.partition_key AS partition_key, pg_catalog.max(numbered.priority) AS priority, pg_catalog.min(numbered.position) AS position, pg_catalog.array_agg(numbered.id
ORDER BY numbered.priority DESC, numbered.position, numbered.id) AS members, pg_catalog.nextval(CAST($3::TEXT AS REGCLASS)) AS id
FROM (SELECT locked.queue AS queue, locked.name AS name, locked.run AS run, locked.size AS size, locked.within AS within, locked.timeout AS timeout, locked.id AS id, locked.partition_key AS partition_key, locked.priority AS priority, locked.position AS position, locked.due_at AS due_at, (pg_catalog.row_number() OVER (PARTITION BY locked.queue, locked.name, locked.partition_key
ORDER BY locked.priority DESC, locked.position, locked.id) - 1) / locked.size AS number
FROM locked) AS numbered GROUP BY numbered.queue, numbered.name, numbered.run, numbered.timeout, numbered.size, numbered.partition_key, numbered.number
HAVING numbered.size <= pg_catalog.count(*)
OR now() >= pg_catalog.min(numbered.due_at)),
made AS
(INSERT INTO pgqrs.pgqrs_workflows (id, name, input, queue, priority, partition_key, position, timeout, ready_at, codec, token, batch_id) SELECT groups.id AS id, groups.run AS run, pg_catalog.array_to_json(groups.members) AS array_to_json_1, groups.queue AS queue, groups.priority AS priority, groups.partition_key AS partition_key, groups.position AS position, groups.timeout AS timeout, now() AS now_1, $1::TEXT AS anon_1, $2::BIGINT AS anon_2, groups.id AS id__1
FROM groups
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.queue),
joined AS
(UPDATE pgqrs.pgqrs_workflows
SET epoch=(pgqrs.pgqrs_workflows.epoch + 1), started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), updated_at=now(), ready_at=NULL, deadline=CASE WHEN (pgqrs.pgqrs_workflows.started_at IS NULL) THEN least(pgqrs.pgqrs_workflows.deadline, now() + CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END * interval '1 second') ELSE coalesce(pgqrs.pgqrs_workflows.deadline, now() + CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END * interval '1 second') END, batch_id=groups.id
FROM groups
WHERE pgqrs.pgqrs_workflows.id = any(groups.members)
RETURNING pgqrs.pgqrs_workflows.id)
 SELECT (SELECT pg_catalog.count(*) AS count_1
FROM made) AS made, (SELECT pg_catalog.min(made.id) AS min_1
FROM made) AS lowest, (SELECT pg_catalog.array_agg(DISTINCT made.queue) AS array_agg_1
FROM made) AS queues, (SELECT CAST(EXTRACT(epoch
FROM pg_catalog.min(CASE WHEN (NOT (left_out.due_at <= now()
OR left_out.count >= left_out.size)) THEN left_out.due_at END) - now()) AS DOUBLE PRECISION) AS anon_3
FROM (SELECT seen.size AS size, pg_catalog.count(*) AS count, pg_catalog.min(seen.due_at) AS due_at
FROM seen
WHERE (seen.id IN (SELECT joined.id
FROM joined)) IS NOT true GROUP BY seen.queue, seen.name, seen.partition_key, seen.size) AS left_out) AS next_due, (SELECT coalesce(pg_catalog.bool_or(left_out.due_at <= now()
OR left_out.count >= left_out.size), false) AS coalesce_1
FROM (SELECT seen.size AS size, pg_catalog.count(*) AS count, pg_catalog.min(seen.due_at) AS due_at
FROM seen
WHERE (seen.id IN (SELECT joined.id
FROM joined)) IS NOT true GROUP BY seen.queue, seen.name, seen.partition_key, seen.size) AS left_out) AS is_left
