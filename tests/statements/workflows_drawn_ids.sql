SELECT pg_catalog.nextval(CAST($1::TEXT AS REGCLASS)) AS nextval_1
FROM pg_catalog.generate_series(1, $2::BIGINT)
