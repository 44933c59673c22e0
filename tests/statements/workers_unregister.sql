DELETE
FROM pgqrs.pgqrs_workers
WHERE pgqrs.pgqrs_workers.executor = $1::UUID
AND pgqrs.pgqrs_workers.id = $2::BIGINT
