INSERT INTO pgqrs.pgqrs_queues (name, concurrency, partition_concurrency, weights) SELECT $1::TEXT AS anon_1, $2::BIGINT AS anon_2, $3::BIGINT AS anon_3, CAST($4::TEXT AS JSON) AS anon_4
ON CONFLICT (name)
DO UPDATE
SET concurrency = excluded.concurrency, partition_concurrency = excluded.partition_concurrency, weights = excluded.weights
