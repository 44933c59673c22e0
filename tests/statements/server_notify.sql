SELECT pg_catalog.pg_notify($1::TEXT, $2::TEXT) AS pg_notify_1
