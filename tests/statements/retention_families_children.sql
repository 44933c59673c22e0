SELECT found.id
FROM pg_catalog.unnest(CAST($1::TEXT AS BIGINT[])) AS given(id)
JOIN LATERAL (SELECT child.id AS id
FROM pgqrs.pgqrs_workflows AS child
WHERE child.parent_id = given.id

LIMIT 100000000) AS found ON true
