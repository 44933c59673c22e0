WITH states_newest AS
(SELECT changes.workflow AS workflow, changes.partition_key AS partition_key, changes.name AS name, changes.value AS value, changes.codec AS codec, changes.age AS age
FROM (SELECT pgqrs.pgqrs_workflows.name AS workflow, pgqrs.pgqrs_workflows.partition_key AS partition_key, states_rows.name AS name, states_rows.value AS value, states_rows.codec AS codec, pg_catalog.row_number() OVER (PARTITION BY pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.partition_key, states_rows.name
ORDER BY states_rows.number DESC) AS age
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[]) WITH ORDINALITY AS states_rows(workflow_id, step_id, name, value, codec, number)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = states_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.partition_key IS NOT NULL) AS changes
WHERE changes.age = 1),
states_deleted AS
(DELETE
FROM pgqrs.pgqrs_states USING states_newest
WHERE pgqrs.pgqrs_states.workflow = states_newest.workflow
AND pgqrs.pgqrs_states.partition_key = states_newest.partition_key
AND pgqrs.pgqrs_states.name = states_newest.name
AND states_newest.value IS NULL)
 INSERT INTO pgqrs.pgqrs_states (workflow, partition_key, name, value, codec, set_at) SELECT states_newest.workflow, states_newest.partition_key, states_newest.name, CAST(states_newest.value AS JSON) AS value, states_newest.codec, now() AS now_1
FROM states_newest
WHERE states_newest.value IS NOT NULL
ORDER BY states_newest.workflow, states_newest.partition_key, states_newest.name
ON CONFLICT (workflow, partition_key, name)
DO UPDATE
SET value = excluded.value, codec = excluded.codec, set_at = excluded.set_at
