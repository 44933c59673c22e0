DELETE
FROM pgqrs.pgqrs_archive_months
WHERE CAST(pgqrs.pgqrs_archive_months.month AS TIMESTAMP WITHOUT TIME ZONE) + interval '1 month' < pg_catalog.timezone('UTC', now() - (SELECT CASE WHEN (pgqrs.pgqrs_retention.archive_kept IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_retention.archive_kept, 0), 3153600000.0) END AS anon_1
FROM pgqrs.pgqrs_retention) * interval '1 second')
