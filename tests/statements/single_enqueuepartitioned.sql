INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, queue, priority, ready_at, due_at, timeout, key, codec, partition_key, releases_key) SELECT $1::BIGINT AS anon_1, $2::TEXT AS anon_2, CAST($3::TEXT AS JSON) AS anon_3, $4::BIGINT AS anon_4, $5::TEXT AS anon_5, $6::BIGINT AS anon_6, CASE WHEN ($7::FLOAT IS NULL) THEN now() END AS anon_7, now() + $7::FLOAT * interval '1 second' AS anon_8, $8::FLOAT AS anon_9, $9::TEXT AS anon_10, $10::TEXT AS anon_11, $11::TEXT AS anon_12, $12::BOOLEAN AS anon_13
ON CONFLICT DO NOTHING
RETURNING pgqrs.pgqrs_workflows.epoch AS epoch
