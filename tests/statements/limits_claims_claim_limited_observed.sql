WITH RECURSIVE settings AS MATERIALIZED
(SELECT pgqrs.pgqrs_queues.concurrency AS concurrency, pgqrs.pgqrs_queues.partition_concurrency AS partition_concurrency, pgqrs.pgqrs_queues.rate AS rate, pgqrs.pgqrs_queues.partition_rate AS partition_rate, pgqrs.pgqrs_queues.weights AS weights, pgqrs.pgqrs_queues.paused_at AS paused_at, pgqrs.pgqrs_queues.holds AS holds, pgqrs.pgqrs_queues.ordered_at AS ordered_at, pgqrs.pgqrs_queues.fair AS fair
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = $1::TEXT),
held AS MATERIALIZED
(SELECT settings.concurrency AS concurrency, settings.partition_concurrency AS partition_concurrency, settings.rate AS rate, settings.partition_rate AS partition_rate, settings.weights AS weights, settings.paused_at AS paused_at, settings.holds AS holds, settings.ordered_at AS ordered_at, settings.fair AS fair
FROM settings
WHERE CASE WHEN (settings.paused_at IS NOT NULL) THEN false ELSE pg_catalog.pg_try_advisory_xact_lock($4::BIGINT) END),
holders AS MATERIALIZED
(SELECT holder.id AS id, affordable.slot AS lane, false AS is_counted, true AS holds, affordable.size AS size
FROM (SELECT first_holders.id AS id, first_holders.slot AS slot, first_holders.ready_at AS ready_at, first_holders.size AS size, pg_catalog.sum(first_holders.size) OVER (ORDER BY first_holders.ready_at, first_holders.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) - first_holders.size AS before
FROM held
JOIN LATERAL (SELECT holders_of_name.id AS id, holders_of_name.slot AS slot, holders_of_name.ready_at AS ready_at, holders_of_name.size AS size
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.slot AS slot, pgqrs.pgqrs_workflows.ready_at AS ready_at, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND pgqrs.pgqrs_workflows.slot IS NOT NULL
AND held.holds = 'until_end'
AND (held.ordered_at IS NULL
OR pgqrs.pgqrs_workflows.id = pgqrs_schema_placeholder.pgqrs_next($1::TEXT, pgqrs.pgqrs_workflows.slot))
ORDER BY pgqrs.pgqrs_workflows.ready_at

LIMIT $3::BIGINT + 16) AS holders_of_name ON true
ORDER BY holders_of_name.ready_at, holders_of_name.id

LIMIT $3::BIGINT + 16) AS first_holders ON true) AS affordable
JOIN pgqrs.pgqrs_workflows AS holder ON holder.id = affordable.id
WHERE affordable.before < $9::BIGINT
AND holder.ready_at IS NOT NULL
ORDER BY affordable.ready_at, affordable.id

LIMIT $3::BIGINT
FOR NO KEY UPDATE OF holder SKIP LOCKED),
room AS MATERIALIZED
(SELECT CASE WHEN (held.concurrency IS NULL) THEN $3::BIGINT - (SELECT pg_catalog.count(*) AS count_1
FROM holders) ELSE greatest(least($3::BIGINT - (SELECT pg_catalog.count(*) AS count_1
FROM holders), held.concurrency - CASE WHEN (held.holds = 'until_end') THEN pgqrs_schema_placeholder.pgqrs_holding($1::TEXT) ELSE pgqrs_schema_placeholder.pgqrs_running($1::TEXT) END), 0) END AS room, CASE WHEN (held.rate IS NOT NULL) THEN greatest(coalesce(CAST(EXTRACT(epoch
FROM pgqrs_schema_placeholder.pgqrs_free_at($1::TEXT, '') - now()) AS DOUBLE PRECISION), CAST(0 AS DOUBLE PRECISION)), CAST(0 AS DOUBLE PRECISION)) END AS debt, (SELECT coalesce(pg_catalog.sum(holders.size), 0) AS coalesce_1
FROM holders) AS size, held.partition_concurrency AS partition_concurrency, held.rate AS rate, held.partition_rate AS partition_rate, CAST(held.weights AS JSONB) AS weights, CAST($10::TEXT AS JSONB) AS ahead, held.holds AS holds, held.ordered_at AS ordered_at, held.fair AS fair
FROM held),
after(lane, turn) AS
(SELECT CAST($2::TEXT AS TEXT) COLLATE "C" AS lane, 0 AS turn
FROM room
WHERE room.room > 0
UNION ALL SELECT following.lane AS lane, after.turn + 1 AS anon_3
FROM after
JOIN LATERAL (SELECT above.partition_key AS lane
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.partition_key > after.lane
ORDER BY pgqrs.pgqrs_workflows.partition_key

LIMIT 1) AS above ON true
ORDER BY above.partition_key

LIMIT 1) AS following ON true
WHERE after.turn < 64),
before(lane, turn) AS
(SELECT CAST('' AS TEXT) COLLATE "C" AS lane, 0 AS turn
FROM room
WHERE room.room > 0
UNION ALL SELECT following.lane AS lane, before.turn + 1 AS anon_5
FROM before
JOIN LATERAL (SELECT above.partition_key AS lane
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.partition_key > before.lane
ORDER BY pgqrs.pgqrs_workflows.partition_key

LIMIT 1) AS above ON true
ORDER BY above.partition_key

LIMIT 1) AS following ON true
WHERE before.turn < 64 - (SELECT pg_catalog.count(*) AS count_1
FROM after)
AND following.lane <= $2::TEXT),
lanes AS MATERIALIZED
(SELECT after.lane AS lane, after.turn AS turn
FROM after
WHERE after.turn > 0
UNION ALL SELECT '' AS lane, 65 AS turn
FROM room
WHERE room.room > 0
AND 64 - (SELECT pg_catalog.count(*) AS count_1
FROM after) >= 0
UNION ALL SELECT before.lane AS lane, before.turn + 65 AS anon_4
FROM before
WHERE before.turn > 0
UNION ALL SELECT lanes_of_first.lane AS lane, 0
FROM (SELECT DISTINCT first_of_name.partition_key AS lane
FROM room
JOIN pg_catalog.unnest($5::TEXT[]) AS names(name) ON true
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND NOT room.fair
AND room.room > 0
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT 500) AS first_of_name ON true
WHERE first_of_name.partition_key IS NOT NULL) AS lanes_of_first
WHERE NOT (EXISTS (SELECT 1
FROM (SELECT after.lane AS lane
FROM after
UNION SELECT before.lane AS lane
FROM before) AS in_turn
WHERE lanes_of_first.lane = in_turn.lane))),
rooms AS MATERIALIZED
(SELECT lanes.lane AS lane, lanes.turn AS turn, CASE WHEN (room.ordered_at IS NOT NULL
AND lanes.lane != '') THEN coalesce(pgqrs_schema_placeholder.pgqrs_next($1::TEXT, lanes.lane), 0) END AS head, CASE WHEN (room.partition_concurrency IS NULL
OR lanes.lane = ''
AND room.ordered_at IS NULL) THEN room.room ELSE greatest(least(room.room, room.partition_concurrency - CASE WHEN (room.holds = 'until_end') THEN pgqrs_schema_placeholder.pgqrs_holding($1::TEXT, lanes.lane) ELSE pgqrs_schema_placeholder.pgqrs_running($1::TEXT, lanes.lane) END), 0) END AS room, CASE WHEN (lanes.lane != '') THEN CASE WHEN (room.partition_rate IS NOT NULL) THEN greatest(coalesce(CAST(EXTRACT(epoch
FROM pgqrs_schema_placeholder.pgqrs_free_at($1::TEXT, lanes.lane) - now()) AS DOUBLE PRECISION), CAST(0 AS DOUBLE PRECISION)), CAST(0 AS DOUBLE PRECISION)) END END AS debt, coalesce(CAST(pg_catalog.jsonb_extract_path_text(room.ahead, lanes.lane) AS DOUBLE PRECISION), CAST(0 AS DOUBLE PRECISION)) AS ahead, coalesce(CAST(pg_catalog.jsonb_extract_path_text(room.weights, lanes.lane) AS DOUBLE PRECISION), CAST(1 AS DOUBLE PRECISION)) AS weight
FROM lanes
JOIN room ON true),
chosen AS MATERIALIZED
(SELECT ordered.lane AS lane, ordered.turn AS turn, ordered.head AS head, ordered.is_counted AS is_counted, pg_catalog.count(*) AS wanted
FROM (SELECT allowed.lane AS lane, allowed.turn AS turn, allowed.head AS head, allowed.is_counted AS is_counted, pg_catalog.sum(allowed.size) OVER (ORDER BY allowed.rank DESC, allowed.age, allowed.ahead + CAST(allowed.place - 1 AS DOUBLE PRECISION) / CAST(allowed.weight AS DOUBLE PRECISION), allowed.turn ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) - allowed.size AS before
FROM (SELECT candidates.lane AS lane, candidates.turn AS turn, candidates.head AS head, candidates.ahead AS ahead, candidates.weight AS weight, candidates.tokens AS tokens, candidates.place AS place, candidates.starts AS starts, candidates.is_counted AS is_counted, candidates.size AS size, candidates.rank AS rank, candidates.age AS age, pg_catalog.count(CASE WHEN candidates.is_counted THEN 1 END) OVER (ORDER BY candidates.rank DESC, candidates.age, candidates.ahead + CAST(candidates.place - 1 AS DOUBLE PRECISION) / CAST(candidates.weight AS DOUBLE PRECISION), candidates.turn ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS all_starts
FROM (SELECT rooms.lane AS lane, rooms.turn AS turn, rooms.head AS head, rooms.ahead AS ahead, rooms.weight AS weight, CASE WHEN (rooms.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'burst') AS DOUBLE PRECISION) - rooms.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END AS tokens, pg_catalog.count(first.id) OVER (PARTITION BY rooms.lane
ORDER BY first.priority DESC, first.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS place, pg_catalog.count(CASE WHEN (first.is_new
AND (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL)) THEN first.id END) OVER (PARTITION BY rooms.lane
ORDER BY first.priority DESC, first.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS starts, first.is_new
AND (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL) AS is_counted, first.size AS size, CASE WHEN NOT room.fair THEN first.priority END AS rank, CASE WHEN NOT room.fair THEN first.id END AS age
FROM rooms
JOIN room ON true
JOIN LATERAL (SELECT of_name.id AS id, of_name.priority AS priority, of_name.size AS size, of_name.is_new AS is_new
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.priority AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size, pgqrs.pgqrs_workflows.started_at IS NULL AS is_new, pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND (room.holds != 'until_end'
OR pgqrs.pgqrs_workflows.slot IS NULL)
AND pgqrs.pgqrs_workflows.partition_key BETWEEN rooms.lane
AND rooms.lane
ORDER BY pgqrs.pgqrs_workflows.partition_key, pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT rooms.room) AS of_name ON true
ORDER BY of_name.priority DESC, of_name.id

LIMIT rooms.room) AS first ON true
WHERE rooms.lane != ''
AND rooms.head IS NULL
AND rooms.room > 0
UNION ALL SELECT rooms.lane AS lane, rooms.turn AS turn, rooms.head AS head, rooms.ahead AS ahead, rooms.weight AS weight, CASE WHEN (rooms.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'burst') AS DOUBLE PRECISION) - rooms.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END AS tokens, pg_catalog.count(first.id) OVER (PARTITION BY rooms.lane
ORDER BY first.priority DESC, first.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS place, pg_catalog.count(CASE WHEN (first.is_new
AND (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL)) THEN first.id END) OVER (PARTITION BY rooms.lane
ORDER BY first.priority DESC, first.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS starts, first.is_new
AND (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL) AS is_counted, first.size AS size, CASE WHEN NOT room.fair THEN first.priority END AS rank, CASE WHEN NOT room.fair THEN first.id END AS age
FROM rooms
JOIN room ON true
JOIN LATERAL (SELECT of_name.id AS id, of_name.priority AS priority, of_name.size AS size, of_name.is_new AS is_new
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT examined.id AS id, examined.priority AS priority, examined.size AS size, examined.is_new AS is_new, examined.partition_key AS partition_key
FROM LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.priority AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size, pgqrs.pgqrs_workflows.started_at IS NULL AS is_new, pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND (room.holds != 'until_end'
OR pgqrs.pgqrs_workflows.slot IS NULL)
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT 500) AS examined
WHERE examined.partition_key IS NULL
ORDER BY examined.priority DESC, examined.id

LIMIT rooms.room) AS of_name ON true
ORDER BY of_name.priority DESC, of_name.id

LIMIT rooms.room) AS first ON true
WHERE rooms.lane = ''
AND rooms.room > 0
UNION ALL SELECT rooms.lane AS lane, rooms.turn AS turn, rooms.head AS head, rooms.ahead AS ahead, rooms.weight AS weight, CASE WHEN (rooms.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'burst') AS DOUBLE PRECISION) - rooms.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END AS tokens, pg_catalog.count(first.id) OVER (PARTITION BY rooms.lane
ORDER BY first.priority DESC, first.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS place, pg_catalog.count(CASE WHEN (first.is_new
AND (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL)) THEN first.id END) OVER (PARTITION BY rooms.lane
ORDER BY first.priority DESC, first.id ROWS BETWEEN UNBOUNDED PRECEDING
AND CURRENT ROW) AS starts, first.is_new
AND (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL) AS is_counted, first.size AS size, CASE WHEN NOT room.fair THEN first.priority END AS rank, CASE WHEN NOT room.fair THEN first.id END AS age
FROM rooms
JOIN room ON true
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, 0 AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size, pgqrs.pgqrs_workflows.started_at IS NULL AS is_new
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = rooms.head
AND pgqrs.pgqrs_workflows.name = any($5::TEXT[])
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND (room.holds != 'until_end'
OR pgqrs.pgqrs_workflows.slot IS NULL)

LIMIT 1) AS first ON true
WHERE rooms.head IS NOT NULL
AND rooms.room > 0) AS candidates
WHERE NOT candidates.is_counted
OR candidates.tokens IS NULL
OR candidates.starts <= candidates.tokens) AS allowed
WHERE NOT allowed.is_counted
OR (SELECT CASE WHEN (room.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.rate, 'burst') AS DOUBLE PRECISION) - room.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END AS anon_6
FROM room) IS NULL
OR allowed.all_starts <= (SELECT CASE WHEN (room.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.rate, 'burst') AS DOUBLE PRECISION) - room.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END AS anon_6
FROM room)
ORDER BY allowed.rank DESC, allowed.age, allowed.ahead + CAST(allowed.place - 1 AS DOUBLE PRECISION) / CAST(allowed.weight AS DOUBLE PRECISION), allowed.turn

LIMIT (SELECT room.room
FROM room)) AS ordered
WHERE ordered.before + (SELECT room.size
FROM room) < $9::BIGINT GROUP BY ordered.lane, ordered.turn, ordered.head, ordered.is_counted),
locked AS MATERIALIZED
((SELECT free.id AS id, chosen.lane AS lane, chosen.is_counted AS is_counted, room.holds = 'until_end' AS holds
FROM chosen
JOIN room ON true
JOIN LATERAL (SELECT workflow.id AS id
FROM LATERAL (SELECT of_name.id AS id, of_name.priority AS priority, of_name.size AS size, of_name.is_new AS is_new
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.priority AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size, pgqrs.pgqrs_workflows.started_at IS NULL AS is_new, pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND (NOT (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL)
OR (pgqrs.pgqrs_workflows.started_at IS NULL) = chosen.is_counted)
AND (room.holds != 'until_end'
OR pgqrs.pgqrs_workflows.slot IS NULL)
AND pgqrs.pgqrs_workflows.partition_key BETWEEN chosen.lane
AND chosen.lane
ORDER BY pgqrs.pgqrs_workflows.partition_key, pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT chosen.wanted + 16) AS of_name ON true
ORDER BY of_name.priority DESC, of_name.id

LIMIT chosen.wanted + 16) AS first
JOIN pgqrs.pgqrs_workflows AS workflow ON workflow.id = first.id
WHERE workflow.ready_at IS NOT NULL
ORDER BY first.priority DESC, first.id

LIMIT chosen.wanted
FOR NO KEY UPDATE OF workflow SKIP LOCKED) AS free ON true
WHERE chosen.lane != ''
AND chosen.head IS NULL
UNION ALL SELECT free.id AS id, chosen.lane AS lane, chosen.is_counted AS is_counted, room.holds = 'until_end' AS holds
FROM chosen
JOIN room ON true
JOIN LATERAL (SELECT workflow.id AS id
FROM LATERAL (SELECT of_name.id AS id, of_name.priority AS priority, of_name.size AS size, of_name.is_new AS is_new
FROM pg_catalog.unnest($5::TEXT[]) AS names(name)
JOIN LATERAL (SELECT examined.id AS id, examined.priority AS priority, examined.size AS size, examined.is_new AS is_new, examined.partition_key AS partition_key
FROM LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.priority AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size, pgqrs.pgqrs_workflows.started_at IS NULL AS is_new, pgqrs.pgqrs_workflows.partition_key AS partition_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.queue = $1::TEXT
AND pgqrs.pgqrs_workflows.name = names.name
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND (NOT (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL)
OR (pgqrs.pgqrs_workflows.started_at IS NULL) = chosen.is_counted)
AND (room.holds != 'until_end'
OR pgqrs.pgqrs_workflows.slot IS NULL)
ORDER BY pgqrs.pgqrs_workflows.priority DESC, pgqrs.pgqrs_workflows.id

LIMIT 500) AS examined
WHERE examined.partition_key IS NULL
ORDER BY examined.priority DESC, examined.id

LIMIT chosen.wanted + 16) AS of_name ON true
ORDER BY of_name.priority DESC, of_name.id

LIMIT chosen.wanted + 16) AS first
JOIN pgqrs.pgqrs_workflows AS workflow ON workflow.id = first.id
WHERE workflow.ready_at IS NOT NULL
ORDER BY first.priority DESC, first.id

LIMIT chosen.wanted
FOR NO KEY UPDATE OF workflow SKIP LOCKED) AS free ON true
WHERE chosen.lane = ''
UNION ALL SELECT free.id AS id, chosen.lane AS lane, chosen.is_counted AS is_counted, room.holds = 'until_end' AS holds
FROM chosen
JOIN room ON true
JOIN LATERAL (SELECT workflow.id AS id
FROM LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, 0 AS priority, CASE WHEN (pg_catalog.pg_column_compression(pgqrs.pgqrs_workflows.input) IS NULL) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) WHEN (pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) < 8192) THEN pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 4 ELSE pg_catalog.pg_column_size(pgqrs.pgqrs_workflows.input) * 90 END AS size, pgqrs.pgqrs_workflows.started_at IS NULL AS is_new
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = chosen.head
AND pgqrs.pgqrs_workflows.name = any($5::TEXT[])
AND pgqrs.pgqrs_workflows.id != all($8::BIGINT[])
AND pgqrs.pgqrs_workflows.ready_at IS NOT NULL
AND pgqrs.pgqrs_workflows.id > $6::BIGINT
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $7::TEXT
AND pgqrs.pgqrs_workflows.attempts < 9223372036854775807
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND (NOT (room.rate IS NOT NULL
OR room.partition_rate IS NOT NULL)
OR (pgqrs.pgqrs_workflows.started_at IS NULL) = chosen.is_counted)
AND (room.holds != 'until_end'
OR pgqrs.pgqrs_workflows.slot IS NULL)

LIMIT 1) AS first
JOIN pgqrs.pgqrs_workflows AS workflow ON workflow.id = first.id
WHERE workflow.ready_at IS NOT NULL
ORDER BY first.priority DESC, first.id

LIMIT chosen.wanted
FOR NO KEY UPDATE OF workflow SKIP LOCKED) AS free ON true
WHERE chosen.head IS NOT NULL)
UNION ALL SELECT holders.id AS id, holders.lane AS lane, holders.is_counted AS is_counted, holders.holds AS holds
FROM holders),
spent AS
(INSERT INTO pgqrs.pgqrs_rates (queue, partition_key, free_at) SELECT $1::TEXT AS anon_1, starts.lane AS lane, greatest(now(), coalesce(pgqrs_schema_placeholder.pgqrs_free_at($1::TEXT, starts.lane), now())) + CAST(starts.starts AS DOUBLE PRECISION) * (CAST(pg_catalog.json_extract_path_text(CASE WHEN (starts.lane = '') THEN room.rate ELSE room.partition_rate END, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(CASE WHEN (starts.lane = '') THEN room.rate ELSE room.partition_rate END, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) * interval '1 second' AS anon_2
FROM (SELECT '' AS lane, pg_catalog.count(*) AS starts
FROM locked
WHERE locked.is_counted
UNION ALL SELECT locked.lane AS lane, pg_catalog.count(*) AS starts
FROM locked
WHERE locked.is_counted
AND locked.lane != '' GROUP BY locked.lane) AS starts
JOIN room ON true
WHERE CASE WHEN (starts.lane = '') THEN room.rate ELSE room.partition_rate END IS NOT NULL
AND starts.starts > 0
ON CONFLICT (queue, partition_key)
DO UPDATE
SET free_at = excluded.free_at),
taken AS
(UPDATE pgqrs.pgqrs_workflows
SET status='RUNNING', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=$11::BIGINT, started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), completed_at=NULL, updated_at=now(), error=NULL, ready_at=NULL, executor=$12::UUID, attempts=(pgqrs.pgqrs_workflows.attempts + 1), deadline=CASE WHEN (pgqrs.pgqrs_workflows.started_at IS NULL) THEN least(pgqrs.pgqrs_workflows.deadline, now() + CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END * interval '1 second') ELSE coalesce(pgqrs.pgqrs_workflows.deadline, now() + CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END * interval '1 second') END, slot=CASE WHEN locked.holds THEN coalesce(pgqrs.pgqrs_workflows.partition_key, '') ELSE pgqrs.pgqrs_workflows.slot END
FROM locked, pgqrs.pgqrs_workflows AS before
WHERE pgqrs.pgqrs_workflows.id = locked.id
AND before.id = locked.id
RETURNING pgqrs.pgqrs_workflows.id AS workflow_id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.epoch, CAST(pgqrs.pgqrs_workflows.input AS TEXT) AS input, pgqrs.pgqrs_workflows.attempts, CAST(EXTRACT(epoch
FROM CASE WHEN (pgqrs.pgqrs_workflows.deadline IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.deadline, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END - now()) AS DOUBLE PRECISION) AS seconds_left, pgqrs.pgqrs_workflows.claim, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.parent_id, pgqrs.pgqrs_workflows.scheduled_for, pgqrs.pgqrs_workflows.priority, pg_catalog.clock_timestamp() AS told, pgqrs.pgqrs_workflows.partition_key, pgqrs.pgqrs_workflows.trace, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.created_at, pgqrs.pgqrs_workflows.schedule, CASE WHEN (before.claim IS NOT NULL) THEN before.epoch WHEN (before.epoch > 1) THEN before.epoch - 1 END AS previous, CAST(EXTRACT(epoch
FROM now() - CASE WHEN (before.ready_at IS NOT NULL) THEN least(greatest(before.ready_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END) AS DOUBLE PRECISION) AS waited)
 SELECT taken.workflow_id, taken.name, taken.epoch, taken.input, taken.attempts, taken.seconds_left, taken.claim, taken.queue, taken.parent_id, taken.scheduled_for, taken.priority, taken.told, taken.partition_key, taken.trace, taken.token, taken.created_at, taken.schedule, taken.previous, taken.waited, summary.is_limited, summary.is_locked, summary.weights, summary.lanes, summary.cursor, summary.next_start
FROM (SELECT (SELECT pg_catalog.count(*) AS count_1
FROM settings) > 0 AS is_limited, (SELECT CASE WHEN (settings.paused_at IS NOT NULL) THEN NULL ELSE (SELECT pg_catalog.count(*) AS count_1
FROM held) > 0 END AS anon_7
FROM settings) AS is_locked, (SELECT CAST(settings.weights AS TEXT) AS weights
FROM settings) AS weights, (SELECT pg_catalog.count(*) AS count_1
FROM lanes) AS lanes, coalesce((SELECT chosen.lane
FROM chosen
JOIN room ON true
WHERE room.fair
ORDER BY chosen.turn DESC

LIMIT 1), (SELECT lanes.lane
FROM lanes
ORDER BY lanes.turn DESC

LIMIT 1)) AS cursor, least((SELECT CASE WHEN ((SELECT pg_catalog.count(*) AS count_1
FROM rooms) > 0) THEN CASE WHEN (CASE WHEN (room.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.rate, 'burst') AS DOUBLE PRECISION) - room.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END = 0) THEN greatest(room.debt - (CAST(pg_catalog.json_extract_path_text(room.rate, 'burst') AS DOUBLE PRECISION) - CAST(1 AS DOUBLE PRECISION)) * (CAST(pg_catalog.json_extract_path_text(room.rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)), CAST(0 AS DOUBLE PRECISION)) END END AS anon_8
FROM room), (SELECT pg_catalog.min(CASE WHEN (CASE WHEN (rooms.debt IS NOT NULL) THEN CAST(pg_catalog.floor(greatest((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'burst') AS DOUBLE PRECISION) - rooms.debt / CAST((CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)) AS DOUBLE PRECISION)) + 1e-3, CAST(0 AS DOUBLE PRECISION))) AS BIGINT) END = 0) THEN greatest(rooms.debt - (CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'burst') AS DOUBLE PRECISION) - CAST(1 AS DOUBLE PRECISION)) * (CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'per') AS DOUBLE PRECISION) / CAST(CAST(pg_catalog.json_extract_path_text(room.partition_rate, 'limit') AS DOUBLE PRECISION) AS DOUBLE PRECISION)), CAST(0 AS DOUBLE PRECISION)) END) AS min_1
FROM rooms
JOIN room ON true)) AS next_start) AS summary
LEFT OUTER
JOIN taken ON true
