WITH "old" AS MATERIALIZED
(SELECT pgqrs.pgqrs_throttles.name AS name, pgqrs.pgqrs_throttles.unique_value AS unique_value
FROM pgqrs.pgqrs_throttles
WHERE pgqrs.pgqrs_throttles.free_at < now()
AND (SELECT 1
FROM pgqrs.pgqrs_workflows AS last_run
WHERE last_run.id = pgqrs.pgqrs_throttles.workflow_id
AND (last_run.epoch = 0
AND last_run.completed_at IS NULL
OR last_run.started_at > now() - pgqrs.pgqrs_throttles.period * interval '1 second')

LIMIT 1) IS NULL

LIMIT 2000
FOR UPDATE OF pgqrs_throttles SKIP LOCKED)
 DELETE
FROM pgqrs.pgqrs_throttles USING "old"
WHERE pgqrs.pgqrs_throttles.name = "old".name
AND pgqrs.pgqrs_throttles.unique_value = "old".unique_value
