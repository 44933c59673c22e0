WITH gone AS
(DELETE
FROM pgqrs.pgqrs_workers
WHERE NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.id = pgqrs.pgqrs_workers.executor))
AND pgqrs.pgqrs_workers.executor != $1::UUID)
 INSERT INTO pgqrs.pgqrs_workers (executor, id, names, batched, names_key, queues, shares, concurrency, codec)
VALUES ($1::UUID, $2::BIGINT, $3::TEXT[], $4::TEXT[], $5::BIGINT, $6::TEXT[], $7::BIGINT[], $8::BIGINT, $9::TEXT)
ON CONFLICT DO NOTHING
