WITH locks AS MATERIALIZED
(SELECT (CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT) AS key, pg_catalog.pg_locks.pid AS pid
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1),
live AS MATERIALIZED
(SELECT pgqrs.pgqrs_executors.id AS id, pgqrs.pgqrs_executors.host AS host, pgqrs.pgqrs_executors.pid AS pid, pgqrs.pgqrs_executors.started_at AS started_at, pgqrs.pgqrs_executors.expires_at AS expires_at, pgqrs.pgqrs_executors.expires_at - coalesce(pgqrs.pgqrs_executors.expiry, 15.0) * interval '1 second' AS heartbeat_at, pgqrs.pgqrs_executors.suspected_at IS NULL
AND pgqrs.pgqrs_executors.stopped_at IS NULL
AND pgqrs.pgqrs_executors.expires_at > pg_catalog.now()
AND (pgqrs.pgqrs_executors.lock_key IS NULL
OR pgqrs.pgqrs_executors.backend_pid IS NULL
OR locks.key IS NOT NULL) AS is_alive
FROM pgqrs.pgqrs_executors
LEFT OUTER
JOIN locks ON locks.key = pgqrs.pgqrs_executors.lock_key
AND locks.pid = pgqrs.pgqrs_executors.backend_pid
WHERE pgqrs.pgqrs_executors.stopped_at IS NULL
AND pgqrs.pgqrs_executors.suspected_at IS NULL
AND pgqrs.pgqrs_executors.stopped_at IS NULL
AND pgqrs.pgqrs_executors.expires_at > pg_catalog.now()
AND (pgqrs.pgqrs_executors.lock_key IS NULL
OR pgqrs.pgqrs_executors.backend_pid IS NULL
OR locks.key IS NOT NULL)),
own AS MATERIALIZED
(SELECT workflow.id AS id, workflow.name AS name, workflow.status AS status, workflow.queue AS queue, workflow.partition_key AS partition_key, workflow.unique_value AS unique_value, CASE WHEN (workflow.ready_at IS NOT NULL) THEN least(greatest(workflow.ready_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS ready_at, CASE WHEN (workflow.due_at IS NOT NULL) THEN least(greatest(workflow.due_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS due_at, CASE WHEN (workflow.deadline IS NOT NULL) THEN least(greatest(workflow.deadline, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS deadline, CASE WHEN (workflow.started_at IS NOT NULL) THEN least(greatest(workflow.started_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS started_at, CASE WHEN (workflow.completed_at IS NOT NULL) THEN least(greatest(workflow.completed_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS completed_at, CASE WHEN (workflow.updated_at IS NOT NULL) THEN least(greatest(workflow.updated_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS updated_at, workflow.attempts AS attempts, workflow.retries AS retries, workflow.cancel_interrupts AS cancel_interrupts, workflow.saga_state AS saga_state, workflow.codec AS codec, workflow.batch_id AS batch_id, workflow.executor AS executor, workflow.claim AS claim, (SELECT batch.status
FROM pgqrs.pgqrs_workflows AS batch
WHERE batch.id = workflow.batch_id) AS batch_status, workflow.error IS NOT NULL AS has_error, workflow.slot IS NOT NULL AS has_slot, (SELECT CASE WHEN (pgqrs.pgqrs_throttles.starts_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_throttles.starts_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS anon_4
FROM pgqrs.pgqrs_throttles
WHERE pgqrs.pgqrs_throttles.name = workflow.name
AND pgqrs.pgqrs_throttles.unique_value = workflow.unique_value
AND pgqrs.pgqrs_throttles.workflow_id = workflow.id) AS throttled_until, pg_catalog.array_append(CASE WHEN (pg_catalog.mxid_age(workflow.xmax) > 0
AND pg_catalog.mxid_age(workflow.xmax) <= (SELECT pg_catalog.mxid_age(pg_catalog.pg_database.datminmxid) AS mxid_age_1
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())) THEN (SELECT pg_catalog.array_agg(CAST(member.xid AS TEXT)) AS array_agg_1
FROM pg_catalog.pg_get_multixact_members(workflow.xmax) AS member(xid)) END, CAST(workflow.xmax AS TEXT)) AS lockers
FROM pgqrs.pgqrs_workflows AS workflow
WHERE workflow.id = $1::BIGINT),
of_queue AS MATERIALIZED
(SELECT pgqrs.pgqrs_queues.name AS name, pgqrs.pgqrs_queues.concurrency AS concurrency, pgqrs.pgqrs_queues.partition_concurrency AS partition_concurrency, pgqrs.pgqrs_queues.rate AS rate, pgqrs.pgqrs_queues.partition_rate AS partition_rate, CASE WHEN (pgqrs.pgqrs_queues.paused_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_queues.paused_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS paused_at, pgqrs.pgqrs_queues.holds AS holds, pgqrs.pgqrs_queues.ordered_at AS ordered_at
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = (SELECT own.queue
FROM own)),
each_worker AS
(SELECT pgqrs.pgqrs_workers.names_key AS names_key, pgqrs.pgqrs_workers.executor AS executor, pgqrs.pgqrs_workers.id AS id, pg_catalog.row_number() OVER (PARTITION BY pgqrs.pgqrs_workers.names_key) AS place
FROM pgqrs.pgqrs_workers
JOIN live ON live.id = pgqrs.pgqrs_workers.executor)
 SELECT now() AS now, own.id, own.name, own.status, own.queue, own.partition_key, own.unique_value, own.ready_at, own.due_at, own.deadline, own.started_at, own.completed_at, own.updated_at, own.attempts, own.retries, own.cancel_interrupts, own.saga_state, own.codec, own.batch_id, own.batch_status, own.has_error, own.has_slot, own.throttled_until, of_queue.name IS NOT NULL AS has_limits, of_queue.concurrency AS concurrency, of_queue.partition_concurrency AS partition_concurrency, of_queue.paused_at AS paused_at, of_queue.holds AS holds, CAST(of_queue.rate AS TEXT) AS rate, CAST(of_queue.partition_rate AS TEXT) AS partition_rate, of_queue.ordered_at IS NOT NULL AS ordered, CASE WHEN (own.ready_at IS NOT NULL
AND of_queue.name IS NOT NULL
AND of_queue.concurrency IS NOT NULL) THEN CASE WHEN (of_queue.holds = 'until_end') THEN pgqrs_schema_placeholder.pgqrs_holding(own.queue) ELSE pgqrs_schema_placeholder.pgqrs_running(own.queue) END END AS holding, CASE WHEN (own.ready_at IS NOT NULL
AND of_queue.name IS NOT NULL
AND of_queue.partition_concurrency IS NOT NULL
AND (own.partition_key IS NOT NULL
OR of_queue.ordered_at IS NOT NULL)) THEN CASE WHEN (of_queue.holds = 'until_end') THEN pgqrs_schema_placeholder.pgqrs_holding(own.queue, coalesce(own.partition_key, '')) ELSE pgqrs_schema_placeholder.pgqrs_running(own.queue, coalesce(own.partition_key, '')) END END AS holding_of_key, CASE WHEN (own.ready_at IS NOT NULL
AND of_queue.name IS NOT NULL
AND of_queue.ordered_at IS NOT NULL
AND own.partition_key IS NOT NULL) THEN pgqrs_schema_placeholder.pgqrs_next(own.queue, own.partition_key) END AS next_id, (SELECT CASE WHEN (start_rate.free_at IS NOT NULL) THEN least(greatest(start_rate.free_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS anon_1
FROM pgqrs.pgqrs_rates AS start_rate
WHERE start_rate.queue = own.queue
AND start_rate.partition_key = '') AS free_at, (SELECT CASE WHEN (start_rate.free_at IS NOT NULL) THEN least(greatest(start_rate.free_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS anon_2
FROM pgqrs.pgqrs_rates AS start_rate
WHERE start_rate.queue = own.queue
AND start_rate.partition_key = own.partition_key) AS free_at_of_key, own.executor AS executor_id, of_executor.host, of_executor.pid, of_executor.heartbeat_at, of_executor.expires_at, of_executor.is_alive, of_executor.has_stopped, (SELECT pg_catalog.count(*) AS count_1
FROM pgqrs.pgqrs_workers
JOIN live ON live.id = pgqrs.pgqrs_workers.executor) AS live_workers, (SELECT pg_catalog.count(*) AS count_1
FROM live
WHERE NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workers
WHERE pgqrs.pgqrs_workers.executor = live.id))) AS silent_executors, row_lock.lock_pid, row_lock.lock_since, row_lock.lock_state, CASE WHEN (own.ready_at IS NOT NULL
AND of_queue.name IS NOT NULL) THEN (SELECT CAST(pg_catalog.json_agg(pg_catalog.json_build_object('id', anon_3.id)) AS TEXT) AS json_agg_1
FROM (SELECT holders.id AS id
FROM (SELECT with_slot.id AS id
FROM (SELECT holder.id AS id
FROM pgqrs.pgqrs_workflows AS holder
WHERE holder.queue = (SELECT own.queue
FROM own)
AND (SELECT of_queue.holds = 'until_end' AS anon_5
FROM of_queue)
AND holder.slot IS NOT NULL
AND holder.completed_at IS NULL

LIMIT 11) AS with_slot
UNION SELECT with_run.id AS id
FROM (SELECT holder.id AS id
FROM pgqrs.pgqrs_workflows AS holder
WHERE holder.queue = (SELECT own.queue
FROM own)
AND holder.executor IS NOT NULL

LIMIT 11) AS with_run) AS holders
ORDER BY holders.id

LIMIT 11) AS anon_3) END AS holders, CASE WHEN (own.ready_at IS NOT NULL
AND of_queue.name IS NOT NULL) THEN (SELECT CAST(pg_catalog.json_agg(pg_catalog.json_build_object('id', anon_6.id)) AS TEXT) AS json_agg_2
FROM (SELECT holders.id AS id
FROM (SELECT with_slot.id AS id
FROM (SELECT holder.id AS id
FROM pgqrs.pgqrs_workflows AS holder
WHERE holder.queue = (SELECT own.queue
FROM own)
AND holder.slot = coalesce((SELECT own.partition_key
FROM own), '')
AND (SELECT of_queue.holds = 'until_end' AS anon_7
FROM of_queue)
AND holder.slot IS NOT NULL
AND holder.completed_at IS NULL

LIMIT 11) AS with_slot
UNION SELECT with_run.id AS id
FROM (SELECT holder.id AS id
FROM pgqrs.pgqrs_workflows AS holder
WHERE holder.queue = (SELECT own.queue
FROM own)
AND holder.partition_key = (SELECT own.partition_key
FROM own)
AND holder.executor IS NOT NULL

LIMIT 11) AS with_run) AS holders
ORDER BY holders.id

LIMIT 11) AS anon_6) END AS holders_of_key, (SELECT CAST(pg_catalog.json_agg(pg_catalog.json_build_object('step_id', anon_8.step_id, 'address', anon_8.address, 'until', anon_8.until)) AS TEXT) AS json_agg_3
FROM (SELECT pgqrs.pgqrs_waits.step_id AS step_id, pgqrs.pgqrs_waits.address AS address, CASE WHEN (pgqrs.pgqrs_workflow_steps.retry_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflow_steps.retry_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS until
FROM pgqrs.pgqrs_waits
LEFT OUTER
JOIN pgqrs.pgqrs_workflow_steps ON pgqrs.pgqrs_workflow_steps.workflow_id = pgqrs.pgqrs_waits.workflow_id
AND pgqrs.pgqrs_workflow_steps.step_id = pgqrs.pgqrs_waits.step_id
WHERE pgqrs.pgqrs_waits.workflow_id = (SELECT own.id
FROM own)
AND pgqrs.pgqrs_waits.claim = (SELECT own.claim
FROM own)
ORDER BY pgqrs.pgqrs_waits.step_id, pgqrs.pgqrs_waits.address

LIMIT 11) AS anon_8) AS waits, (SELECT CAST(pg_catalog.json_agg(pg_catalog.json_build_object('step_id', anon_9.step_id, 'failures', anon_9.failures, 'since', anon_9.since, 'until', anon_9.until)) AS TEXT) AS json_agg_4
FROM (SELECT pgqrs.pgqrs_workflow_steps.step_id AS step_id, pgqrs.pgqrs_workflow_steps.failures AS failures, CASE WHEN (pgqrs.pgqrs_workflow_steps.started_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflow_steps.started_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS since, CASE WHEN (pgqrs.pgqrs_workflow_steps.retry_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflow_steps.retry_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS until
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = (SELECT own.id
FROM own)
AND pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
ORDER BY pgqrs.pgqrs_workflow_steps.started_at, pgqrs.pgqrs_workflow_steps.step_id

LIMIT 11) AS anon_9) AS steps, (SELECT CAST(pg_catalog.json_agg(pg_catalog.json_build_object('step_id', anon_10.step_id, 'id', anon_10.id)) AS TEXT) AS json_agg_5
FROM (SELECT pgqrs.pgqrs_waits.step_id AS step_id, child.id AS id
FROM pgqrs.pgqrs_waits
JOIN LATERAL (SELECT live_child.id AS id
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = CASE WHEN pg_catalog.starts_with(pgqrs.pgqrs_waits.address, 'c/') THEN CAST(pg_catalog.split_part(pgqrs.pgqrs_waits.address, '/', 2) AS BIGINT) END
AND live_child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(pgqrs.pgqrs_waits.address, CAST(pg_catalog.length(pg_catalog.split_part(pgqrs.pgqrs_waits.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND live_child.completed_at IS NULL

LIMIT 11) AS child ON true
WHERE pgqrs.pgqrs_waits.workflow_id = (SELECT own.id
FROM own)
AND pgqrs.pgqrs_waits.claim = (SELECT own.claim
FROM own)

LIMIT 11) AS anon_10) AS children, CASE WHEN (own.completed_at IS NULL) THEN (SELECT CAST(pg_catalog.json_agg(pg_catalog.json_build_object('executor', anon_11.executor, 'serves_queue', anon_11.serves_queue, 'reads', anon_11.reads, 'codec', anon_11.codec, 'concurrency', anon_11.concurrency, 'share', anon_11.share, 'is_batched', anon_11.is_batched, 'running', anon_11.running, 'running_of_queue', anon_11.running_of_queue)) AS TEXT) AS json_agg_6
FROM (SELECT CAST(pgqrs.pgqrs_workers.executor AS TEXT) AS executor, coalesce((SELECT own.queue
FROM own) = any(pgqrs.pgqrs_workers.queues), false) AS serves_queue, pgqrs.pgqrs_workers.codec IS NOT DISTINCT
FROM (SELECT own.codec
FROM own) AS reads, pgqrs.pgqrs_workers.codec AS codec, pgqrs.pgqrs_workers.concurrency AS concurrency, CASE WHEN (pgqrs.pgqrs_workers.shares IS NOT NULL) THEN pgqrs.pgqrs_workers.shares[CAST(pg_catalog.array_position(pgqrs.pgqrs_workers.queues, (SELECT own.queue
FROM own)) AS BIGINT)] END AS share, knowing_workers.is_batched AS is_batched, (SELECT pg_catalog.count(*) AS count_1
FROM LATERAL (SELECT 1 AS one
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = pgqrs.pgqrs_workers.executor

LIMIT pgqrs.pgqrs_workers.concurrency) AS runs) AS running, (SELECT pg_catalog.count(*) AS count_1
FROM LATERAL (SELECT 1 AS one
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.executor = pgqrs.pgqrs_workers.executor
AND pgqrs.pgqrs_workflows.queue = (SELECT own.queue
FROM own)

LIMIT pgqrs.pgqrs_workers.concurrency) AS runs) AS running_of_queue
FROM (SELECT each_worker.executor AS executor, each_worker.id AS id, knowing.is_batched AS is_batched
FROM each_worker
JOIN (SELECT each_worker.names_key AS names_key, (SELECT own.name
FROM own) = any(pgqrs.pgqrs_workers.batched) AS is_batched
FROM each_worker
JOIN pgqrs.pgqrs_workers ON pgqrs.pgqrs_workers.executor = each_worker.executor
AND pgqrs.pgqrs_workers.id = each_worker.id
AND each_worker.place = 1
WHERE (SELECT own.name
FROM own) = any(pgqrs.pgqrs_workers.names)
OR (SELECT own.name
FROM own) = any(pgqrs.pgqrs_workers.batched)) AS knowing ON knowing.names_key = each_worker.names_key) AS knowing_workers
JOIN pgqrs.pgqrs_workers ON pgqrs.pgqrs_workers.executor = knowing_workers.executor
AND pgqrs.pgqrs_workers.id = knowing_workers.id
ORDER BY CASE WHEN (coalesce((SELECT own.queue
FROM own) = any(pgqrs.pgqrs_workers.queues), false)
AND pgqrs.pgqrs_workers.codec IS NOT DISTINCT
FROM (SELECT own.codec
FROM own)) THEN 0 ELSE 1 END, pgqrs.pgqrs_workers.started_at, pgqrs.pgqrs_workers.id

LIMIT 100) AS anon_11) END AS workers
FROM own
LEFT OUTER
JOIN of_queue ON true
LEFT OUTER
JOIN LATERAL (SELECT pgqrs.pgqrs_executors.host AS host, pgqrs.pgqrs_executors.pid AS pid, CASE WHEN (pgqrs.pgqrs_executors.expires_at - coalesce(pgqrs.pgqrs_executors.expiry, 15.0) * interval '1 second' IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_executors.expires_at - coalesce(pgqrs.pgqrs_executors.expiry, 15.0) * interval '1 second', timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS heartbeat_at, CASE WHEN (pgqrs.pgqrs_executors.expires_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_executors.expires_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS expires_at, pgqrs.pgqrs_executors.suspected_at IS NULL
AND pgqrs.pgqrs_executors.stopped_at IS NULL
AND pgqrs.pgqrs_executors.expires_at > pg_catalog.now()
AND (pgqrs.pgqrs_executors.lock_key IS NULL
OR pgqrs.pgqrs_executors.backend_pid IS NULL
OR lock_of_executor.key IS NOT NULL) AS is_alive, pgqrs.pgqrs_executors.stopped_at IS NOT NULL AS has_stopped
FROM pgqrs.pgqrs_executors
LEFT OUTER
JOIN (SELECT (CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT) AS key, pg_catalog.pg_locks.pid AS pid
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1) AS lock_of_executor ON lock_of_executor.key = pgqrs.pgqrs_executors.lock_key
AND lock_of_executor.pid = pgqrs.pgqrs_executors.backend_pid
WHERE pgqrs.pgqrs_executors.id = own.executor

LIMIT 1) AS of_executor ON true
LEFT OUTER
JOIN LATERAL (SELECT pg_catalog.pg_locks.pid AS lock_pid, pg_catalog.pg_stat_activity.xact_start AS lock_since, pg_catalog.pg_stat_activity.state AS lock_state
FROM pg_catalog.pg_locks
LEFT OUTER
JOIN pg_catalog.pg_stat_activity ON pg_catalog.pg_stat_activity.pid = pg_catalog.pg_locks.pid
WHERE pg_catalog.pg_locks.locktype = 'transactionid'
AND pg_catalog.pg_locks.granted
AND CAST(pg_catalog.pg_locks.transactionid AS TEXT) = any(own.lockers)
AND pg_catalog.pg_locks.pid != pg_catalog.pg_backend_pid()
ORDER BY pg_catalog.pg_stat_activity.xact_start

LIMIT 1) AS row_lock ON true
