SELECT given.address
FROM pg_catalog.unnest($1::TEXT[]) AS given(address)
WHERE CASE WHEN pg_catalog.starts_with(given.address, 'c/') THEN (SELECT 1
FROM pgqrs.pgqrs_workflows AS live_child
WHERE live_child.parent_id = CASE WHEN pg_catalog.starts_with(given.address, 'c/') THEN CAST(pg_catalog.split_part(given.address, '/', 2) AS BIGINT) END
AND live_child.parent_step = pg_catalog.replace(pg_catalog.replace(pg_catalog.substr(given.address, CAST(pg_catalog.length(pg_catalog.split_part(given.address, '/', 2)) AS INTEGER) + 4), '%0A', '
'), '%25', '%')
AND live_child.completed_at IS NULL

LIMIT 1) IS NULL ELSE (SELECT 1
FROM pgqrs.pgqrs_messages AS unread
WHERE unread.address = given.address
AND unread.taken_at IS NULL

LIMIT 1) IS NOT NULL END
