INSERT INTO pgqrs.pgqrs_messages (address, key, payload) SELECT $1::TEXT AS anon_1, '', CAST($2::TEXT AS JSON) AS anon_2
ON CONFLICT (address, key)
DO UPDATE
SET key = excluded.key
WHERE CAST(pgqrs.pgqrs_messages.payload AS TEXT) = CAST(excluded.payload AS TEXT)
RETURNING 1 AS epoch
